//! Selects the messages that clients and brokers exchange.
//!
//! These are all requests that a broker listens for, their responses, the two headers, and the data
//! that consumers put into group messages. Requests between controllers are left out, but their API
//! keys are known by name.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};

use crate::schema::{Kind, Message};

const DATA: [&str; 2] = ["ConsumerProtocolAssignment", "ConsumerProtocolSubscription"];

/// The messages to generate.
#[derive(Debug)]
pub(crate) struct Selection {
    /// The messages, ordered by name.
    pub(crate) messages: Vec<Message>,
    /// Every API that Kafka has or had: key and name, ordered by key.
    pub(crate) keys: Vec<(i16, String)>,
}

/// Selects the needed schemas.
pub(crate) fn needed(all: Vec<Message>) -> anyhow::Result<Selection> {
    let mut keys = vec![];
    for request in all.iter().filter(|message| message.kind == Kind::Request) {
        let key = request.key.with_context(|| format!("{} has no key", request.name))?;
        keys.push((key, api_name(&request.name).to_owned()));
    }
    keys.sort();
    let distinct: BTreeSet<_> = keys.iter().map(|(key, _)| key).collect();
    ensure!(distinct.len() == keys.len(), "two requests share a key");
    let served: BTreeSet<_> = all
        .iter()
        .filter(|message| message.to_broker && !message.versions.is_empty())
        .filter_map(|message| message.key)
        .collect();
    let is_needed = |message: &Message| match message.kind {
        Kind::Request | Kind::Response => message.key.is_some_and(|key| served.contains(&key)),
        Kind::Header => true,
        Kind::Data => DATA.contains(&message.name.as_str()),
    };
    let mut messages: Vec<_> = all.into_iter().filter(is_needed).collect();
    messages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Selection { messages, keys })
}

/// The name of an API from that of its request or response.
pub(crate) fn api_name(message: &str) -> &str {
    message.strip_suffix("Request").or(message.strip_suffix("Response")).unwrap_or(message)
}
