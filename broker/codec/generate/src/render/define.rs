//! Renders a struct and its default.

use super::shape::{Shape, field_name, is_option, rust_type};
use crate::schema::{Field, Type};

/// Renders the definition of a struct and its `Default`.
pub(super) fn structure(shape: &Shape<'_>) -> String {
    let name = shape.name();
    let fields = &shape.structure.fields;
    let plain = fields.iter().all(|field| default(field) == "Default::default()");
    let derived = if plain { ", Default" } else { "" };
    let mut text = format!(
        "/// `{name}`, versions {}.\n#[derive(Debug, Clone, PartialEq{derived})]\npub struct {name} {{\n",
        shape.reach().display()
    );
    for field in fields {
        let kind = rust_type(&field.kind);
        let kind = if is_option(field) { format!("Option<{kind}>") } else { kind };
        text += &format!("/// {}\npub {}: {kind},\n", facts(shape, field), field_name(field));
    }
    text += "}\n\n";
    if !plain {
        text += &format!("impl Default for {name} {{\nfn default() -> Self {{\nSelf {{\n");
        for field in fields {
            text += &format!("{}: {},\n", field_name(field), default(field));
        }
        text += "}\n}\n}\n\n";
    }
    text
}

/// The properties of a field in the schema, as its doc comment.
fn facts(shape: &Shape<'_>, field: &Field) -> String {
    let everywhere = |versions| shape.reach().and(versions) == shape.reach();
    let mut facts = vec![if everywhere(field.versions) {
        "All versions".to_owned()
    } else {
        format!("Versions {}", field.versions.display())
    }];
    if !field.nullable.is_empty() {
        facts.push(if field.nullable == field.versions {
            "nullable".to_owned()
        } else {
            format!("nullable in {}", field.nullable.display())
        });
    }
    if let Some(tag) = field.tag {
        facts.push(format!("tag {tag}"));
    }
    if let Some(default) = &field.default {
        facts.push(format!("default {default:?}").replace('"', "`"));
    }
    if field.ignorable {
        facts.push("ignorable".to_owned());
    }
    facts.join(", ") + "."
}

/// The default of a field as a Rust expression.
pub(super) fn default(field: &Field) -> String {
    const PLAIN: &str = "Default::default()";
    let value = match (&field.kind, field.default.as_deref()) {
        (_, Some("null")) => return PLAIN.to_owned(),
        (Type::Records, _) if field.nullable.is_empty() => return "Records::empty()".to_owned(),
        (Type::Records, _) => return PLAIN.to_owned(),
        (Type::Bool, Some(text)) if text.eq_ignore_ascii_case("true") => "true".to_owned(),
        (Type::Integer(_), Some(text)) if integer(text) != 0 => integer(text).to_string(),
        (Type::String, Some(text)) if !text.is_empty() => format!("Str::from_static({text:?})"),
        _ => PLAIN.to_owned(),
    };
    if is_option(field) { format!("Some({value})") } else { value }
}

/// A Rust condition that holds if a field differs from its default.
pub(super) fn differs_from_default(field: &Field) -> String {
    let value = format!("self.{}", field_name(field));
    let default = default(field);
    match &field.kind {
        Type::Records if field.nullable.is_empty() => format!("!{value}.is_empty()"),
        Type::Records => format!("!{value}.is_null()"),
        _ if is_option(field) && default == "Default::default()" => format!("{value}.is_some()"),
        Type::String | Type::Bytes | Type::Array(_) if is_option(field) => {
            format!("{value}.as_ref().is_none_or(|x| !x.is_empty())")
        }
        Type::Bool if default == "true" => format!("!{value}"),
        Type::Bool => value,
        Type::Integer(_) if default == "Default::default()" => format!("{value} != 0"),
        Type::Float64 => format!("{value} != 0.0"),
        Type::Uuid => format!("!{value}.is_nil()"),
        Type::Bytes | Type::Array(_) => format!("!{value}.is_empty()"),
        Type::String if default == "Default::default()" => format!("!{value}.is_empty()"),
        Type::Struct(name) => format!("{value} != {name}::default()"),
        Type::Integer(_) | Type::String => format!("{value} != {default}"),
    }
}

/// Parses an integer of a schema, which is decimal or hexadecimal.
fn integer(text: &str) -> i64 {
    let value = match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    value.expect("the schema's default of an integer is an integer")
}
