//! A page on which somebody who has forgotten their password chooses a new one, behind a link that an admin has made.

use http::{Method, StatusCode};
use maud::html;

use super::{FORM, chosen_password, complaint, page, password_fields, sentence, settings};
use crate::{
    app::Ctx,
    error::Result,
    http::{Raw, Reply, Routes},
    users::resets,
};

/// The page.
pub fn routes(to: &mut Routes) {
    to.raw(Method::GET, "/_ingle/reset/{secret}", show);
    to.raw(Method::POST, "/_ingle/reset/{secret}", done).body_limit(FORM).rate_limited();
}

async fn show(ctx: Ctx, (): (), raw: Raw) -> Result<Reply> {
    let secret = raw.args.first().map(String::as_str).unwrap_or_default();
    Ok(match resets::find(&ctx.users, secret)? {
        Some(user) => asking(user.as_str(), None),
        None => gone(),
    })
}

async fn done(ctx: Ctx, (): (), raw: Raw) -> Result<Reply> {
    let secret = raw.args.first().cloned().unwrap_or_default();
    let Some(user) = resets::find(&ctx.users, &secret)? else { return Ok(gone()) };
    let form = raw.form().await?;
    let password = match chosen_password(&form) {
        Ok(password) => password,
        Err(why) => return Ok(asking(user.as_str(), Some(&why)).status(StatusCode::BAD_REQUEST)),
    };
    let everywhere = form.field("everywhere") == "yes";
    match resets::set_password(&ctx.users, &secret, &password, everywhere).await {
        Ok(true) => {}
        Ok(false) => return Ok(gone()),
        Err(error) if error.status.is_client_error() => {
            return Ok(asking(user.as_str(), Some(&sentence(&error))).status(error.status));
        }
        Err(error) => return Err(error),
    }
    tracing::info!("{user} has chosen a new password");
    let content = html! {
        h1 { "Your new password holds" }
        p { "You are " strong { (user) } ". Log in with your client:" }
        (settings(&ctx.config.public_url()))
    };
    Ok(page("Your new password holds", content))
}

fn asking(user: &str, wrong: Option<&str>) -> Reply {
    page(
        "A new password",
        html! {
            h1 { "Choose a new password" }
            p { "For the account " strong { (user) } "." }
            (complaint(wrong))
            form method="post" {
                input type="hidden" name="username" autocomplete="username" value=(user);
                (password_fields())
                label.choice {
                    input type="checkbox" name="everywhere" value="yes";
                    " Log me out everywhere: somebody else may know the old password"
                }
                button type="submit" { "Set the password" }
            }
        },
    )
}

fn gone() -> Reply {
    let content = html! {
        h1 { "This link is used up" }
        p { "It worked once, a newer one was made, or its time is over. Ask whoever looks after this server for another." }
    };
    page("This link is used up", content).status(StatusCode::NOT_FOUND)
}
