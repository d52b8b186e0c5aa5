//! Renders the table of all messages: modules, macros over all messages, and the API keys.

use super::NOTICE;
use super::shape::snake;
use crate::schema::{Kind, Message};
use crate::select::{Selection, api_name};

/// Renders `generated.rs`: the modules and macros.
pub(super) fn modules(selection: &Selection) -> String {
    let mut text = format!("{NOTICE}\npub mod api_key;\n");
    for message in &selection.messages {
        text += &format!("pub mod {};\n", snake(&message.name));
    }
    text += "\npub use api_key::ApiKey;\npub use request_header::RequestHeader;\n\
             pub use response_header::ResponseHeader;\n\n";
    text += &walker("message", selection.messages.iter());
    let requests = selection.messages.iter().filter(|message| message.kind == Kind::Request);
    text + &walker("request", requests)
}

/// Renders a macro that passes the paths of many messages to another macro.
fn walker<'a>(name: &str, messages: impl Iterator<Item = &'a Message>) -> String {
    let mut text = format!(
        "/// Calls a macro once, with `module::Struct,` of every {name}. \
         Other arguments come\n\
         /// first, in parentheses: `for_each_{name}!(callback, a b)` \
         is `callback! {{ (a b) … }}`.\n\
         #[macro_export]\nmacro_rules! for_each_{name} {{\n    \
         ($callback:ident, $($argument:tt)*) => {{\n        \
         $callback! {{\n            ($($argument)*)\n"
    );
    for message in messages {
        text += &format!("            {}::{},\n", snake(&message.name), message.name);
    }
    text + "        }\n    };\n}\n\n"
}

/// Renders `api_key.rs`: the enum of the API keys.
pub(super) fn api_key(selection: &Selection) -> String {
    let request = |key: i16| {
        let mut requests =
            selection.messages.iter().filter(|message| message.kind == Kind::Request);
        requests.find(|message| message.key == Some(key))
    };
    let keys = &selection.keys;
    let lines = |line: &dyn Fn(i16, &str) -> String| -> String {
        keys.iter().map(|(key, name)| line(*key, name) + "\n").collect()
    };
    let versions = |key, name: &str| match request(key) {
        Some(Message { versions, .. }) => {
            format!("Self::{name} => Some({}..={}),", versions.low, versions.high)
        }
        None => format!("Self::{name} => None,"),
    };
    let flexible =
        |key, name: &str| match request(key).filter(|message| !message.flexible.is_empty()) {
            Some(Message { flexible, .. }) => format!("Self::{name} => Some({}),", flexible.low),
            None => format!("Self::{name} => None,"),
        };
    format!(
        "{NOTICE}\nuse std::ops::RangeInclusive;\n\n\
         /// The APIs of Kafka, those included that only controllers speak \
         and those that are gone.\n\
         #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[repr(i16)]\n\
         pub enum ApiKey {{\n{}}}\n\n\
         impl ApiKey {{\n\
         /// All of them, in the order of their numbers.\npub const ALL: [Self; {}] = [{}];\n\n\
         /// The API of a number.\n\
         #[must_use]\npub const fn from_i16(key: i16) -> Option<Self> {{\n\
         match key {{\n{}_ => None,\n}}\n}}\n\n/// The number.\n\
         #[must_use]\npub const fn as_i16(self) -> i16 {{\nself as i16\n}}\n\n/// The name.\n\
         #[must_use]\npub const fn name(self) -> &'static str {{\nmatch self {{\n{}}}\n}}\n\n\
         /// The versions that can be decoded here. None if the API is not generated.\n\
         #[must_use]\n\
         pub const fn versions(self) -> Option<RangeInclusive<i16>> {{\nmatch self {{\n{}}}\n}}\n\n\
         /// The first version with compact types and tagged fields.\n\
         pub(crate) const fn first_flexible(self) -> Option<i16> {{\nmatch self {{\n{}}}\n}}\n}}\n",
        lines(&|key, name| format!("/// {name}.\n{name} = {key},")),
        keys.len(),
        lines(&|_, name| format!("Self::{name},")),
        lines(&|key, name| format!("{key} => Some(Self::{name}),")),
        lines(&|_, name| format!("Self::{name} => \"{}\",", api_name(name))),
        lines(&versions),
        lines(&flexible),
    )
}
