"use strict";
const part = (id) => document.getElementById(id);
const wrong = (text) => {
    part("wrong").textContent = text;
    part("wrong").hidden = !text;
};
part("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    wrong("");
    const button = part("form").querySelector("button");
    button.disabled = true;
    // What the client has put into the address goes along, but nothing that says who logs in.
    const body = Object.fromEntries(new URLSearchParams(location.search));
    for (const name of ["user", "address", "medium", "password", "token"]) delete body[name];
    if ("refresh_token" in body) body.refresh_token = body.refresh_token === "true";
    body.type = "m.login.password";
    body.identifier = { type: "m.id.user", user: part("user").value.trim() };
    body.password = part("password").value;
    try {
        const answer = await fetch("/_matrix/client/v3/login", {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify(body),
        });
        const said = await answer.json();
        if (!answer.ok) {
            const text = String(said.error || "it did not work");
            wrong(text.charAt(0).toUpperCase() + text.slice(1) + ".");
        } else {
            part("ask").hidden = true;
            part("done").hidden = false;
            part("done").querySelector("h1").focus();
            const client = window.matrixLogin || window;
            if (client.onLogin) client.onLogin(said);
        }
    } catch {
        wrong("The server does not answer. Try again in a moment.");
    }
    button.disabled = false;
});
