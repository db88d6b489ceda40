//! The name of the server, which cannot change: everybody's ID ends with it.

use ruma::ServerName;

use crate::{
    error::{Error, Result},
    store::{Store, schema::server::SERVER_NAME},
};

/// Notes the name at the first start; refuses another one ever after.
pub async fn settle(store: &Store, name: &ServerName) -> Result<()> {
    match store.get(SERVER_NAME, &())? {
        Some(known) if known == *name => Ok(()),
        Some(known) => Err(Error::forbidden(format!(
            "the data folder belongs to the server {known}, and a server's name cannot be changed; write \
             server_name = \"{known}\", or choose another data_dir for {name}"
        ))),
        None => {
            let mut write = store.write();
            write.put(SERVER_NAME, &(), &name.to_string());
            let ticket = write.commit();
            ticket?.published().await?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[tokio::test]
    async fn a_name_is_for_ever() {
        let store = Store::in_memory();
        settle(&store, server_name!("a.example")).await.expect("the first start");
        settle(&store, server_name!("a.example")).await.expect("the same");
        let error = settle(&store, server_name!("b.example")).await.expect_err("another");
        assert!(error.message.contains("server_name = \"a.example\""), "{error}");
    }
}
