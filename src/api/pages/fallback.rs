//! Pages on which one proves a stage of user-interactive authentication, for clients that do not know the stage.
//!
//! The client opens the page with the ID of its session; the page tells it when the stage is proved.
//!
//! Spec: client-server-api#fallback

use http::{Method, StatusCode};
use maud::{Markup, html};

use super::{FORM, complaint, page, page_with};
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Anyone, Raw, Reply, Routes},
    store::schema::numbers,
    users::{
        passwords, registration,
        uia::{self, Session, Stage},
    },
};

/// What tells the client, word for word as the specification wants it.
const DONE: &str = r#"if (window.onAuthDone) {
    window.onAuthDone();
} else if (window.opener && window.opener.postMessage) {
    window.opener.postMessage("authDone", "*");
}"#;

/// The pages.
pub fn routes(to: &mut Routes) {
    const V3: &str = "/_matrix/client/v3/auth/{auth_type}/fallback/web";
    const R0: &str = "/_matrix/client/r0/auth/{auth_type}/fallback/web";
    to.raw(Method::GET, V3, show).also(R0);
    to.raw(Method::POST, V3, prove).also(R0).body_limit(FORM).rate_limited();
}

/// A stage that somebody is about to prove.
struct Step {
    id: String,
    session: Session,
    stage: Stage,
    /// Whose password is asked for.
    user: Option<String>,
}

/// What the address of the page means, or the page that says why it means nothing.
fn step(ctx: &Ctx, raw: &Raw) -> Result<Result<Step, Reply>> {
    let name = raw.args.first().map(String::as_str).unwrap_or_default();
    let id = raw.parameter("session").unwrap_or_default();
    let (Some(stage), Some(session)) = (Stage::by_name(name), uia::find(&ctx.users, &id)) else {
        return Ok(Err(gone(StatusCode::NOT_FOUND)));
    };
    let user = match (stage, session.purpose.user) {
        (Stage::Password, None) => return Ok(Err(gone(StatusCode::BAD_REQUEST))),
        (Stage::Password, Some(number)) => numbers::user_id(&ctx.store, number)?.map(String::from),
        _ => None,
    };
    Ok(Ok(Step { id, session, stage, user }))
}

async fn show(ctx: Ctx, (): (), raw: Raw) -> Result<Reply> {
    Ok(match step(&ctx, &raw)? {
        Ok(step) if step.session.completed.contains(&step.stage) => done(),
        Ok(step) => asking(&step, None),
        Err(reply) => reply,
    })
}

async fn prove(ctx: Ctx, anyone: Anyone, raw: Raw) -> Result<Reply> {
    let step = match step(&ctx, &raw)? {
        Ok(step) => step,
        Err(reply) => return Ok(reply),
    };
    let form = raw.form().await?;
    let mut token = None;
    let holds = match step.stage {
        Stage::Dummy => true,
        Stage::Password => {
            let number = step.session.purpose.user.ok_or_else(Error::missing_token)?;
            match passwords::check(&ctx.users, Some(number), anyone.address, &form.field("password")).await {
                Err(error) if error.status.is_client_error() => {
                    let why = "Too many wrong passwords. Wait a few minutes, then try again.";
                    return Ok(asking(&step, Some(why)).status(error.status));
                }
                holds => holds?,
            }
        }
        Stage::RegistrationToken => {
            let shown = form.field("token").trim().to_owned();
            let holds = registration::is_valid(&ctx.users, &shown)?;
            token = Some(shown);
            holds
        }
    };
    if !holds {
        let why = match step.stage {
            Stage::RegistrationToken => "This token does not hold. Look whether it is written as you got it.",
            _ => "This is not the password of this account.",
        };
        return Ok(asking(&step, Some(why)).status(StatusCode::UNAUTHORIZED));
    }
    uia::complete(&ctx.users, &step.id, step.stage, token);
    Ok(done())
}

fn asking(step: &Step, wrong: Option<&str>) -> Reply {
    let (title, fields): (&str, Markup) = match step.stage {
        Stage::Dummy => (
            "One more step",
            html! {
                p { "Your client asks you to confirm what you are doing there." }
            },
        ),
        Stage::Password => (
            "Is it you?",
            html! {
                p { "Your client is about to do something that only you may do." }
                // For programs that fill in passwords.
                input type="hidden" name="username" autocomplete="username" value=[step.user.as_deref()];
                label for="password" { "The password of " (step.user.as_deref().unwrap_or("your account")) }
                input #password name="password" type="password" required maxlength="1000" autofocus
                    autocomplete="current-password";
            },
        ),
        Stage::RegistrationToken => (
            "Your invitation",
            html! {
                p { "To make an account here you need a token. Whoever looks after this server gives it to you." }
                label for="token" { "The token" }
                input #token name="token" type="text" required maxlength="200" autofocus autocomplete="off"
                    autocapitalize="none" autocorrect="off" spellcheck="false";
            },
        ),
    };
    page(
        title,
        html! {
            h1 { (title) }
            (complaint(wrong))
            form method="post" {
                (fields)
                button type="submit" { "Go on" }
            }
        },
    )
}

fn done() -> Reply {
    let content = html! {
        h1 { "Thank you" }
        p { "You can close this page and go on in your client." }
    };
    page_with("Thank you", content, DONE)
}

fn gone(status: StatusCode) -> Reply {
    let content = html! {
        h1 { "This step is over" }
        p { "It took too long, or it was done already. Begin again in your client." }
    };
    page("This step is over", content).status(status)
}
