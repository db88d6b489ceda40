//! Push notifications: what people were notified of goes to the gateways that their applications named.
//!
//! [`follow`] reads the rows that the projection of unread events writes, for each pusher from where it had got;
//! [`notice`] says what a gateway is told. Nobody calls this module. Which events notify whom was decided with the
//! event, by the push rules.
//!
//! Spec: push-gateway-api

pub mod follow;
pub mod notice;
#[cfg(test)]
mod tests;
