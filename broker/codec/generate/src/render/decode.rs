//! Renders the method that reads a struct.

use super::shape::{Shape, field_name, is_option};
use crate::schema::{Field, Type};

/// Renders `fn decode` of a struct.
pub(super) fn method(shape: &Shape<'_>) -> String {
    let mut text =
        "fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {\n".to_owned();
    if shape.is_message {
        text += "if !Self::VERSIONS.contains(&version) {\n\
                 let message = Self::MESSAGE_NAME;\n\
                 return Err(DecodeError::UnsupportedVersion { message, version });\n}\n";
    }
    text += &shape.let_flexible();
    text += "let mut m = Self::default();\n";
    for field in shape.plain_fields() {
        let read = format!("m.{} = {};\n", field_name(field), value(shape, field));
        text += &match field.versions.condition(shape.reach()) {
            Some(condition) => format!("if {condition} {{\n{read}}}\n"),
            None => read,
        };
    }
    text += &match shape.flexible() {
        "false" => String::new(),
        "true" => tags(shape),
        condition => format!("if {condition} {{\n{}}}\n", tags(shape)),
    };
    text + "Ok(m)\n}\n"
}

fn tags(shape: &Shape<'_>) -> String {
    let fields = shape.tagged_fields();
    if fields.is_empty() {
        return "r.skip_tags()?;\n".to_owned();
    }
    let mut text = "r.tags(|r, tag| {\nmatch tag {\n".to_owned();
    for (tag, field) in fields {
        let condition = field.versions.condition(shape.reach());
        let guard = condition.map(|condition| format!(" if {condition}")).unwrap_or_default();
        text += &format!("{tag}{guard} => m.{} = {},\n", field_name(field), value(shape, field));
    }
    text + "_ => return Ok(false),\n}\nOk(true)\n})?;\n"
}

/// Renders the expression that reads a field, null included.
fn value(shape: &Shape<'_>, field: &Field) -> String {
    let flexible = shape.flexible_of(field);
    let plain = read(shape, &field.kind, flexible);
    if field.nullable.is_empty() {
        return format!("{plain}?");
    }
    let nullable = match &field.kind {
        Type::Struct(_) => format!("r.nullable(|r| {plain})"),
        Type::Bool | Type::Integer(_) | Type::Float64 | Type::Uuid => {
            unreachable!("the schema lets only sized things be null")
        }
        Type::String | Type::Bytes | Type::Records | Type::Array(_) => {
            plain.replacen("r.", "r.nullable_", 1)
        }
    };
    match field.nullable.condition(field.versions) {
        None => format!("{nullable}?"),
        Some(condition) if is_option(field) => {
            format!("if {condition} {{ {nullable}? }} else {{ Some({plain}?) }}")
        }
        Some(condition) => format!("if {condition} {{ {nullable}? }} else {{ {plain}? }}"),
    }
}

/// Renders the expression that reads a value that is not null. It is a `Result`.
fn read(shape: &Shape<'_>, kind: &Type, flexible: &str) -> String {
    match kind {
        Type::Bool => "r.bool()".to_owned(),
        Type::Integer(name) => format!("r.{name}()"),
        Type::Float64 => "r.f64()".to_owned(),
        Type::Uuid => "r.uuid()".to_owned(),
        Type::String => format!("r.string({flexible})"),
        Type::Bytes => format!("r.bytes({flexible})"),
        Type::Records => format!("r.records({flexible})"),
        Type::Struct(name) => format!("{name}::decode(r, version)"),
        Type::Array(element) => {
            let size = shape.element_size(element);
            format!("r.array({flexible}, {size}, |r| {})", read(shape, element, flexible))
        }
    }
}
