//! Renders the method that makes a random instance, for tests.

use super::shape::{Shape, field_name};
use crate::schema::{Field, Type};

/// Renders the `impl` with `fn sample`: of the trait for a message, inherent for a nested struct.
pub(super) fn implementation(shape: &Shape<'_>) -> String {
    let name = shape.name();
    let head = if shape.is_message { format!("Sample for {name}") } else { name.to_owned() };
    let mut text = format!(
        "#[cfg(any(test, feature = \"testing\"))]\nimpl {head} {{\n\
         fn sample(s: &mut Source<'_>, version: i16) -> Self {{\n\
         let mut m = Self::default();\n"
    );
    for field in &shape.structure.fields {
        let set = format!("m.{} = {};\n", field_name(field), value(field));
        text += &match field.versions.condition(shape.reach()) {
            Some(condition) => format!("if {condition} {{\n{set}}}\n"),
            None => set,
        };
    }
    text + "m\n}\n}\n\n"
}

fn value(field: &Field) -> String {
    let plain = grow(&field.kind);
    if field.nullable.is_empty() {
        return plain;
    }
    let (some, maybe) = if field.kind == Type::Records {
        (plain.clone(), format!("if s.bool() {{ {plain} }} else {{ Records::null() }}"))
    } else {
        (format!("Some({plain})"), format!("s.option(|s| {plain})"))
    };
    match field.nullable.condition(field.versions) {
        None => maybe,
        Some(condition) => format!("if {condition} {{ {maybe} }} else {{ {some} }}"),
    }
}

fn grow(kind: &Type) -> String {
    match kind {
        Type::Bool => "s.bool()".to_owned(),
        Type::Integer(name) => format!("s.{name}()"),
        Type::Float64 => "s.f64()".to_owned(),
        Type::Uuid => "s.uuid()".to_owned(),
        Type::String => "s.string()".to_owned(),
        Type::Bytes => "s.bytes()".to_owned(),
        Type::Records => "s.records()".to_owned(),
        Type::Struct(name) => format!("{name}::sample(s, version)"),
        Type::Array(element) => format!("s.array(|s| {})", grow(element)),
    }
}
