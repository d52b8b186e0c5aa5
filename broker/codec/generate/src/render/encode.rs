//! Renders the method that writes a struct.

use super::define::differs_from_default;
use super::shape::{Shape, field_name, is_option};
use crate::schema::{Field, Type};

/// Renders `fn encode` of a struct.
pub(super) fn method(shape: &Shape<'_>) -> String {
    let mut text =
        "fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {\n".to_owned();
    if shape.is_message {
        text += "if !Self::VERSIONS.contains(&version) {\n\
                 let message = Self::MESSAGE_NAME;\n\
                 return Err(EncodeError::UnsupportedVersion { message, version });\n}\n";
    }
    text += &shape.let_flexible();
    for field in shape.plain_fields() {
        text += &where_present(shape, field, &value(shape, field));
    }
    let tags = tags(shape);
    text += &match shape.flexible() {
        "false" => String::new(),
        _ if tags.is_empty() => where_flexible(shape, "w.put_no_tags();\n"),
        _ => format!(
            "let mut tags = Tags::new();\n{tags}{}",
            where_flexible(shape, "w.put_tags(tags);\n")
        ),
    };
    text + "Ok(())\n}\n"
}

fn where_flexible(shape: &Shape<'_>, write: &str) -> String {
    match shape.flexible() {
        "true" => write.to_owned(),
        condition => format!("if {condition} {{\n{write}}}\n"),
    }
}

fn tags(shape: &Shape<'_>) -> String {
    let mut text = String::new();
    for (tag, field) in shape.tagged_fields() {
        let put = format!(
            "if {} {{\ntags.put({tag}, |w| {{\n{}Ok(())\n}})?;\n}}\n",
            differs_from_default(field),
            value(shape, field)
        );
        text += &where_present(shape, field, &put);
    }
    text
}

/// Renders `write`, and for versions without the field a check that no value is lost.
fn where_present(shape: &Shape<'_>, field: &Field, write: &str) -> String {
    let Some(condition) = field.versions.condition(shape.reach()) else {
        return write.to_owned();
    };
    if field.ignorable {
        return format!("if {condition} {{\n{write}}}\n");
    }
    format!(
        "if {condition} {{\n{write}}} else if {} {{\n{}}}\n",
        differs_from_default(field),
        refuse(shape, field, "UnsupportedField")
    )
}

fn refuse(shape: &Shape<'_>, field: &Field, error: &str) -> String {
    let name = format!("{}.{}", shape.name(), field_name(field));
    format!("return Err(EncodeError::{error} {{ field: \"{name}\", version }});\n")
}

/// The Rust expressions for a value to write.
struct Operand {
    /// Expression to use before a dot.
    place: String,
    /// Expression of a number by value.
    number: String,
    /// Expression of the value by reference.
    reference: String,
}

impl Operand {
    fn field(field: &Field) -> Self {
        let place = format!("self.{}", field_name(field));
        Self { number: place.clone(), reference: format!("&{place}"), place }
    }

    fn bound() -> Self {
        Self { place: "x".to_owned(), number: "*x".to_owned(), reference: "x".to_owned() }
    }
}

/// Renders the statements that write a field, null included.
fn value(shape: &Shape<'_>, field: &Field) -> String {
    let flexible = shape.flexible_of(field);
    let operand = Operand::field(field);
    if field.kind == Type::Records {
        let plain = write(&field.kind, &operand, flexible);
        let null = null(shape, field, flexible);
        return format!("if {}.is_null() {{\n{null}}} else {{\n{plain}}}\n", operand.place);
    }
    if !is_option(field) {
        return write(&field.kind, &operand, flexible);
    }
    let plain = write(&field.kind, &Operand::bound(), flexible);
    let marker = if matches!(field.kind, Type::Struct(_)) { "w.put_i8(1);\n" } else { "" };
    let null = null(shape, field, flexible);
    format!("if let Some(x) = {} {{\n{marker}{plain}}} else {{\n{null}}}\n", operand.reference)
}

/// Renders the statements that write null or refuse it.
fn null(shape: &Shape<'_>, field: &Field, flexible: &str) -> String {
    let put = match field.kind {
        Type::String => format!("w.put_null_string({flexible});\n"),
        Type::Struct(_) => "w.put_i8(-1);\n".to_owned(),
        Type::Bool
        | Type::Integer(_)
        | Type::Float64
        | Type::Bytes
        | Type::Records
        | Type::Uuid
        | Type::Array(_) => format!("w.put_null({flexible});\n"),
    };
    let refuse = refuse(shape, field, "UnexpectedNull");
    match field.nullable.condition(field.versions).as_deref() {
        None => put,
        Some("false") => refuse,
        Some(condition) => format!("if {condition} {{\n{put}}} else {{\n{refuse}}}\n"),
    }
}

/// Renders the statements that write a value that is not null.
fn write(kind: &Type, operand: &Operand, flexible: &str) -> String {
    let Operand { place, number, reference } = operand;
    match kind {
        Type::Bool => format!("w.put_bool({number});\n"),
        Type::Integer(name) => format!("w.put_{name}({number});\n"),
        Type::Float64 => format!("w.put_f64({number});\n"),
        Type::Uuid => format!("w.put_uuid({number});\n"),
        Type::String => format!("w.put_string({reference}, {flexible})?;\n"),
        Type::Bytes => format!("w.put_bytes({reference}, {flexible})?;\n"),
        Type::Records => format!("w.put_records({reference}, {flexible})?;\n"),
        Type::Struct(name) => format!("{name}::encode({reference}, w, version)?;\n"),
        Type::Array(element) => format!(
            "w.put_length({place}.len(), {flexible})?;\nfor x in {reference} {{\n{}}}\n",
            write(element, &Operand::bound(), flexible)
        ),
    }
}
