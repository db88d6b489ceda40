//! The rules by which a user is told of messages: read and changed, one rule at a time.
//!
//! What the rules mean is in `protocol::push`; where they are kept, in `users::push_rules`.
//! Spec: client-server-api#push-rules-api

use ruma::{
    api::client::push::{
        delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled, get_pushrules_all,
        get_pushrules_global_scope, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
    },
    push::{Action, AnyPushRuleRef, InsertPushRuleError, NewPushRule, RemovePushRuleError, RuleKind, Ruleset},
};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::User,
    users::push_rules,
};

/// All rules of the caller.
pub async fn all(ctx: Ctx, user: User, _: get_pushrules_all::v3::Request) -> Result<get_pushrules_all::v3::Response> {
    Ok(get_pushrules_all::v3::Response::new(rules(&ctx, &user)?))
}

/// The same, in the one scope that there is.
pub async fn global(
    ctx: Ctx,
    user: User,
    _: get_pushrules_global_scope::v3::Request,
) -> Result<get_pushrules_global_scope::v3::Response> {
    Ok(get_pushrules_global_scope::v3::Response::new(rules(&ctx, &user)?))
}

/// One rule.
pub async fn get(ctx: Ctx, user: User, req: get_pushrule::v3::Request) -> Result<get_pushrule::v3::Response> {
    let rules = rules(&ctx, &user)?;
    Ok(get_pushrule::v3::Response::new(rule(&rules, req.kind, &req.rule_id)?.to_owned().into()))
}

/// What a rule does.
pub async fn actions(
    ctx: Ctx,
    user: User,
    req: get_pushrule_actions::v3::Request,
) -> Result<get_pushrule_actions::v3::Response> {
    let rules = rules(&ctx, &user)?;
    Ok(get_pushrule_actions::v3::Response::new(rule(&rules, req.kind, &req.rule_id)?.actions().to_vec()))
}

/// Whether a rule is asked at all.
pub async fn enabled(
    ctx: Ctx,
    user: User,
    req: get_pushrule_enabled::v3::Request,
) -> Result<get_pushrule_enabled::v3::Response> {
    let rules = rules(&ctx, &user)?;
    Ok(get_pushrule_enabled::v3::Response::new(rule(&rules, req.kind, &req.rule_id)?.enabled()))
}

/// Makes a rule, or gives it another place or content.
pub async fn set(ctx: Ctx, user: User, req: set_pushrule::v3::Request) -> Result<set_pushrule::v3::Response> {
    let set_pushrule::v3::Request { mut rule, before, after, .. } = req;
    strip(&mut rule);
    if [&before, &after].into_iter().flatten().any(|other| other == rule.rule_id()) {
        return Err(Error::not_found("a rule cannot stand before or after itself"));
    }
    change(&ctx, &user, |rules| {
        let (kind, id) = (rule.kind(), rule.rule_id().to_owned());
        let known = rules.get(kind.clone(), &id).map(|known| known.enabled());
        if known.is_some() && (before.is_some() || after.is_some()) && !id.starts_with('.') {
            // A rule that gets another place leaves its own first, so that the places of others are counted rightly.
            rules.remove(kind.clone(), &id).map_err(not_removed)?;
        }
        rules.insert(rule, after.as_deref(), before.as_deref()).map_err(not_made)?;
        rules.set_enabled(kind, &id, known.unwrap_or(true)).map_err(|_| no_rule())
    })
    .await?;
    Ok(set_pushrule::v3::Response::new())
}

/// Removes a rule that the user has made.
pub async fn remove(ctx: Ctx, user: User, req: delete_pushrule::v3::Request) -> Result<delete_pushrule::v3::Response> {
    change(&ctx, &user, |rules| rules.remove(req.kind, req.rule_id).map_err(not_removed)).await?;
    Ok(delete_pushrule::v3::Response::new())
}

/// Changes what a rule does.
pub async fn set_actions(
    ctx: Ctx,
    user: User,
    req: set_pushrule_actions::v3::Request,
) -> Result<set_pushrule_actions::v3::Response> {
    let mut actions = req.actions;
    actions.retain(|action| !is_historical(action));
    change(&ctx, &user, |rules| rules.set_actions(req.kind, req.rule_id, actions).map_err(|_| no_rule())).await?;
    Ok(set_pushrule_actions::v3::Response::new())
}

/// Switches a rule on or off.
pub async fn set_enabled(
    ctx: Ctx,
    user: User,
    req: set_pushrule_enabled::v3::Request,
) -> Result<set_pushrule_enabled::v3::Response> {
    change(&ctx, &user, |rules| rules.set_enabled(req.kind, req.rule_id, req.enabled).map_err(|_| no_rule())).await?;
    Ok(set_pushrule_enabled::v3::Response::new())
}

/// Leaves out what older versions of the specification had.  Spec: client-server-api#historical-actions
fn strip(rule: &mut NewPushRule) {
    let actions = match rule {
        NewPushRule::Override(rule) | NewPushRule::Underride(rule) => &mut rule.actions,
        NewPushRule::Content(rule) => &mut rule.actions,
        NewPushRule::Room(rule) => &mut rule.actions,
        NewPushRule::Sender(rule) => &mut rule.actions,
        _ => return,
    };
    actions.retain(|action| !is_historical(action));
}

fn is_historical(action: &Action) -> bool {
    serde_json::to_value(action).is_ok_and(|action| action == "dont_notify" || action == "coalesce")
}

fn rules(ctx: &Ctx, user: &User) -> Result<Ruleset> {
    Ok(Ruleset::clone(&*push_rules::of(&ctx.users, user.number, &user.id)?))
}

async fn change(ctx: &Ctx, user: &User, change: impl FnOnce(&mut Ruleset) -> Result<()>) -> Result<()> {
    push_rules::edit(&ctx.users, user.number, &user.id, change).await
}

fn rule<'a>(rules: &'a Ruleset, kind: RuleKind, id: &str) -> Result<AnyPushRuleRef<'a>> {
    rules.get(kind, id).ok_or_else(no_rule)
}

fn no_rule() -> Error {
    Error::not_found("there is no such push rule")
}

fn not_made(why: InsertPushRuleError) -> Error {
    match why {
        InsertPushRuleError::UnknownRuleId => Error::not_found("there is no rule before or after which it could stand"),
        why => Error::invalid_param(why.to_string()),
    }
}

fn not_removed(why: RemovePushRuleError) -> Error {
    match why {
        RemovePushRuleError::NotFound => no_rule(),
        why => Error::invalid_param(why.to_string()),
    }
}
