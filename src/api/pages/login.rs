//! A page that logs in, for clients that show it and wait for what it tells them.
//!
//! Spec: client-server-api#login-fallback

use http::Method;
use maud::html;

use super::{page_with, settings};
use crate::{
    app::Ctx,
    error::Result,
    http::{Raw, Reply, Routes},
};

const SCRIPT: &str = include_str!("login.js");

/// The page.
pub fn routes(to: &mut Routes) {
    to.raw(Method::GET, "/_matrix/static/client/login/", show);
}

async fn show(ctx: Ctx, (): (), _: Raw) -> Result<Reply> {
    let content = html! {
        div #ask {
            h1 { "Log in" }
            p #wrong .wrong role="alert" hidden {}
            noscript {
                p.wrong { "This page needs JavaScript. Log in with a Matrix client at this homeserver:" }
                (settings(&ctx.config.public_url()))
            }
            form #form {
                label for="user" { "Your name" }
                div.name {
                    span { "@" }
                    input #user type="text" required autofocus autocapitalize="none" autocorrect="off"
                        spellcheck="false" autocomplete="username" maxlength="255";
                    span { ":" (ctx.config.server_name) }
                }
                p.hint {}
                label for="password" { "Your password" }
                input #password type="password" required maxlength="1000" autocomplete="current-password";
                button type="submit" { "Log in" }
            }
        }
        div #done hidden {
            h1 tabindex="-1" { "You are logged in" }
            p { "You can close this page and go on in your client." }
        }
    };
    Ok(page_with("Log in", content, SCRIPT))
}
