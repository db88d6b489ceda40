//! The few pages for people: what this is, how the first person gets an account, how somebody gets a new password, and
//! what clients show that cannot log in by themselves.
//!
//! Plain HTML in one sheet of paper that fits a phone, without scripts but for the few lines that the specification
//! asks for. Everything else that people see of their server is in their client.

mod fallback;
mod login;
mod reset;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderValue, Method, StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Form, Raw, Reply, Routes},
};

const STYLE: &str = include_str!("pages/style.css");
/// A flame on a hearth, drawn for this.
const SIGN: &str = include_str!("pages/sign.svg");
/// Nothing is loaded from anywhere, nothing runs, and nobody shows the page in a frame of theirs.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; \
                      frame-ancestors 'none'; base-uri 'none'";
/// The shortest password that the pages take. Clients may have weaker ideas of their own.
const SHORTEST: usize = 8;
/// How large a form may be.
const FORM: usize = 16 << 10;

/// The pages.
pub fn routes(to: &mut Routes) {
    to.raw(Method::GET, "/", landing);
    to.raw(Method::GET, "/_ingle/set-up/{secret}", set_up);
    to.raw(Method::POST, "/_ingle/set-up/{secret}", set_up_done).body_limit(FORM).rate_limited();
    reset::routes(to);
    fallback::routes(to);
    login::routes(to);
}

/// Says that the server runs and what to write into a client.
async fn landing(ctx: Ctx, (): (), _: Raw) -> Result<Reply> {
    let (name, url) = (&ctx.config.server_name, ctx.config.public_url());
    Ok(page(
        &format!("{name} is here"),
        html! {
            h1 { (name) " is here" }
            p { "This is a Matrix homeserver: people who live here talk with each other, and with everybody else "
                "on Matrix, through the client of their choice." }
            h2 { "To log in" }
            (settings(&url))
            p.aside { "Choose any Matrix client, such as Element, and tell it this address when it asks for your "
                "homeserver. Whoever looks after this server makes the accounts." }
        },
    ))
}

/// Asks the first person for a name and a password.
async fn set_up(ctx: Ctx, (): (), raw: Raw) -> Result<Reply> {
    let secret = raw.args.first().map(String::as_str).unwrap_or_default();
    match ctx.invitation.is_open(&ctx.users, secret)? {
        true => Ok(asking(&ctx, "", None)),
        false => Ok(gone(&ctx)),
    }
}

/// Makes the first account.
async fn set_up_done(ctx: Ctx, (): (), raw: Raw) -> Result<Reply> {
    let secret = raw.args.first().cloned().unwrap_or_default();
    if !ctx.invitation.is_open(&ctx.users, &secret)? {
        return Ok(gone(&ctx));
    }
    let form = raw.form().await?;
    // People write their name as one writes names.
    let name = form.field("name").trim().trim_start_matches('@').to_lowercase();
    let wrong = |status, why: &str| Ok(asking(&ctx, &name, Some(why)).status(status));
    let password = match chosen_password(&form) {
        Ok(password) => password,
        Err(why) => return wrong(StatusCode::BAD_REQUEST, &why),
    };
    match ctx.invitation.accept(&ctx.users, &secret, &name, password).await {
        Ok(id) => {
            tracing::info!("{id} made the first account and looks after this server");
            Ok(welcome(&ctx, id.as_str()))
        }
        Err(error) if error.status.is_client_error() => wrong(error.status, &sentence(&error)),
        Err(error) => Err(error),
    }
}

/// The new password that somebody has written twice, or what is wrong with it.
fn chosen_password(form: &Form) -> Result<String, String> {
    let (password, again) = (form.field("password"), form.field("again"));
    if password.chars().count() < SHORTEST {
        return Err(format!("The password needs at least {SHORTEST} characters."));
    }
    match password == again {
        true => Ok(password),
        false => Err("The two passwords are not the same. Please write them again.".to_owned()),
    }
}

/// What an error says, as a sentence on a page.
fn sentence(error: &Error) -> String {
    let mut why = error.message.to_string();
    if let Some(first) = why.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    format!("{why}.")
}

/// The fields for a new password.
fn password_fields() -> Markup {
    html! {
        label for="password" { "A password" }
        input #password name="password" type="password" required minlength=(SHORTEST) maxlength="500"
            autocomplete="new-password" aria-describedby="hint";
        p.hint #hint { "At least " (SHORTEST) " characters. A short sentence is easy to remember and hard to guess." }
        label for="again" { "The password again" }
        input #again name="again" type="password" required maxlength="500" autocomplete="new-password";
    }
}

/// What was wrong with the last attempt.
fn complaint(wrong: Option<&str>) -> Markup {
    html! {
        @if let Some(wrong) = wrong {
            p.wrong role="alert" { (wrong) }
        }
    }
}

fn asking(ctx: &Ctx, name: &str, wrong: Option<&str>) -> Reply {
    let server = &ctx.config.server_name;
    page(
        "Welcome",
        html! {
            h1 { "Welcome home" }
            p { "Your server " strong { (server) } " is running, and nobody lives here yet. Make the first account: it is "
                "yours, and it looks after the server." }
            (complaint(wrong))
            form method="post" autocomplete="off" {
                label for="name" { "Your name" }
                div.name {
                    span { "@" }
                    input #name name="name" type="text" value=(name) required autofocus[wrong.is_none()] autocapitalize="none"
                        autocorrect="off" spellcheck="false" autocomplete="username" maxlength="200" placeholder="ann";
                    span { ":" (server) }
                }
                p.hint { "Small letters and digits. It stays as it is; the name that others see can be changed later." }
                (password_fields())
                button type="submit" { "Make my account" }
            }
        },
    )
}

fn welcome(ctx: &Ctx, id: &str) -> Reply {
    page(
        "Welcome",
        html! {
            h1 { "Come in, the fire is lit" }
            p { "You are " strong { (id) } ". Log in with any Matrix client, such as Element:" }
            (settings(&ctx.config.public_url()))
            p { "For everybody else in the house, on this machine:" }
            pre { "ingle user add bob" }
        },
    )
}

fn gone(ctx: &Ctx) -> Reply {
    page(
        "This link is used up",
        html! {
            h1 { "This link is used up" }
            p { "It worked once, or the server was restarted since it was shown. If you made an account, log in with your "
                "client:" }
            (settings(&ctx.config.public_url()))
            p.aside { "If nobody has an account yet, start the server again: it shows a new link. On the server's machine, "
                code { "ingle user add ann --admin" } " works at any time." }
        },
    )
    .status(StatusCode::NOT_FOUND)
}

fn settings(url: &str) -> Markup {
    html! {
        dl {
            dt { "Homeserver" }
            dd { code { (url) } }
        }
    }
}

fn page(title: &str, content: Markup) -> Reply {
    written(title, content, None)
}

/// A page with a script: this very one may run, and ask this server alone.
fn page_with(title: &str, content: Markup, script: &str) -> Reply {
    let hash = STANDARD.encode(Sha256::digest(script.as_bytes()));
    let policy = format!("{POLICY}; script-src 'sha256-{hash}'; connect-src 'self'");
    let reply = written(title, content, Some(script));
    match HeaderValue::try_from(policy) {
        Ok(policy) => reply.header(CONTENT_SECURITY_POLICY, policy),
        Err(_) => reply,
    }
}

fn written(title: &str, content: Markup, script: Option<&str>) -> Reply {
    let text = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    div.sign aria-hidden="true" { (PreEscaped(SIGN)) }
                    (content)
                }
                footer { "Ingle, a Matrix homeserver for one household" }
                @if let Some(script) = script {
                    script { (PreEscaped(script)) }
                }
            }
        }
    };
    Reply::html(text.into_string())
        .header(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY))
        .header(REFERRER_POLICY, HeaderValue::from_static("no-referrer"))
        .header(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
        .header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Request, Response};

    use super::*;
    use crate::{admin, api, app::App};

    async fn ask(ctx: &Ctx, path: &str, form: Option<&str>) -> (StatusCode, String) {
        let request = match form {
            Some(form) => Request::post(path).header("content-type", "application/x-www-form-urlencoded").body(form),
            None => Request::get(path).body(""),
        };
        let request = request.expect("a request").map(|body| Bytes::from(body.to_owned()));
        let answer: Response<Bytes> = api::http(ctx.clone()).call(request).await;
        (answer.status(), String::from_utf8_lossy(answer.body()).into_owned())
    }

    fn invite(ctx: &Ctx) -> String {
        let secret = ctx.invitation.issue(&ctx.users, &ctx.chance).expect("a store").expect("nobody is there");
        format!("/_ingle/set-up/{secret}")
    }

    #[tokio::test]
    async fn the_first_person_chooses_a_name_and_a_password() {
        let ctx = App::for_tests();
        let link = invite(&ctx);
        let (status, text) = ask(&ctx, &link, None).await;
        assert!(status == 200 && text.contains("Welcome home"), "{text}");
        let form = "name=Grandmother&password=the+kettle+sings+%26+steams&again=the+kettle+sings+%26+steams";
        let (status, text) = ask(&ctx, &link, Some(form)).await;
        assert!(status == 200 && text.contains("@grandmother:localhost"), "{text}");
        assert!(admin::accounts::list(&ctx.users).expect("a list")[0].admin);
        assert_eq!(ask(&ctx, &link, None).await.0, StatusCode::NOT_FOUND);
        assert_eq!(ask(&ctx, &link, Some(form)).await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_and_can_be_mended() {
        let ctx = App::for_tests();
        let link = invite(&ctx);
        for (form, says) in [
            ("name=ann&password=short&again=short", "at least 8 characters"),
            ("name=ann&password=long+enough&again=longenough", "not the same"),
            ("name=a+n+n&password=long+enough&again=long+enough", "A name is made of"),
            ("", "at least 8 characters"),
        ] {
            let (status, text) = ask(&ctx, &link, Some(form)).await;
            assert!(status == 400 && text.contains(says), "{status} {text}");
        }
        assert!(ask(&ctx, &link, None).await.1.contains("Welcome home"), "the link still holds");
    }

    #[tokio::test]
    async fn a_guessed_link_opens_nothing() {
        let ctx = App::for_tests();
        assert_eq!(ask(&ctx, "/_ingle/set-up/x", None).await.0, StatusCode::NOT_FOUND);
        invite(&ctx);
        assert_eq!(ask(&ctx, "/_ingle/set-up/x", None).await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn the_front_page_says_what_a_client_needs() {
        let (status, text) = ask(&App::for_tests(), "/", None).await;
        assert!(status == 200 && text.contains("localhost"), "{text}");
    }
}
