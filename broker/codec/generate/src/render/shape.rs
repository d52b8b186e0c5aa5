//! Properties of a struct and its fields that the other modules of [`crate::render`] need.

use crate::schema::{Field, Message, Struct, Type};
use crate::versions::Versions;

/// A struct together with its message.
pub(super) struct Shape<'a> {
    message: &'a Message,
    pub(super) structure: &'a Struct,
    /// Whether this is the message itself and not a nested struct.
    pub(super) is_message: bool,
}

impl<'a> Shape<'a> {
    pub(super) const fn new(message: &'a Message, structure: &'a Struct, is_message: bool) -> Self {
        Self { message, structure, is_message }
    }

    pub(super) fn name(&self) -> &str {
        &self.structure.name
    }

    pub(super) const fn reach(&self) -> Versions {
        self.structure.reach
    }

    /// Whether the message has an array of this struct.
    pub(super) fn is_element(&self) -> bool {
        let mut fields = self.message.structs.iter().flat_map(|structure| &structure.fields);
        fields.any(|field| {
            matches!(field.kind, Type::Array(_)) && field.kind.struct_name() == Some(self.name())
        })
    }

    /// The fields without a tag, in the order of the wire.
    pub(super) fn plain_fields(&self) -> impl Iterator<Item = &'a Field> {
        self.structure.fields.iter().filter(|field| field.tag.is_none())
    }

    /// The tagged fields, in the order of their tags.
    pub(super) fn tagged_fields(&self) -> Vec<(u32, &'a Field)> {
        let fields = self.structure.fields.iter();
        let mut tagged: Vec<_> =
            fields.filter_map(|field| field.tag.map(|tag| (tag, field))).collect();
        tagged.sort_by_key(|(tag, _)| *tag);
        tagged
    }

    /// The Rust expression for whether the version is flexible.
    pub(super) fn flexible(&self) -> &'static str {
        match self.message.flexible.condition(self.reach()).as_deref() {
            None => "true",
            Some("false") => "false",
            Some(_) => "flexible",
        }
    }

    /// A `let flexible = …;`, if [`Self::flexible`] refers to it.
    pub(super) fn let_flexible(&self) -> String {
        match self.message.flexible.condition(self.reach()) {
            Some(condition) if self.flexible() == "flexible" => {
                format!("let flexible = {condition};\n")
            }
            _ => String::new(),
        }
    }

    /// The Rust expression for whether one field is flexible.
    pub(super) fn flexible_of(&self, field: &Field) -> &'static str {
        if field.never_flexible { "false" } else { self.flexible() }
    }

    /// The smallest size on the wire over all versions with this struct.
    pub(super) fn size_min(&self) -> usize {
        let reach = self.reach();
        (reach.low..=reach.high)
            .map(|version| self.size_in(self.structure, version))
            .min()
            .unwrap_or(0)
    }

    fn size_in(&self, structure: &Struct, version: i16) -> usize {
        let flexible = self.message.flexible.contains(version);
        let present = |field: &&Field| field.versions.contains(version) && field.tag.is_none();
        let fields: usize = structure
            .fields
            .iter()
            .filter(present)
            .map(|field| self.field_size(field, version))
            .sum();
        fields + usize::from(flexible)
    }

    fn field_size(&self, field: &Field, version: i16) -> usize {
        if matches!(field.kind, Type::Struct(_)) && field.nullable.contains(version) {
            return 1;
        }
        self.type_size(&field.kind, version, field.never_flexible)
    }

    fn type_size(&self, kind: &Type, version: i16, never_flexible: bool) -> usize {
        let compact = self.message.flexible.contains(version) && !never_flexible;
        match kind {
            Type::Bool | Type::Integer("i8") => 1,
            Type::Integer("i16" | "u16") => 2,
            Type::Integer("i32" | "u32") => 4,
            Type::Integer(_) | Type::Float64 => 8,
            Type::Uuid => 16,
            Type::String | Type::Bytes | Type::Records | Type::Array(_) if compact => 1,
            Type::String => 2,
            Type::Bytes | Type::Records | Type::Array(_) => 4,
            Type::Struct(name) => {
                let structs = &self.message.structs;
                let inner = structs.iter().find(|structure| structure.name == *name);
                inner.map_or(0, |structure| self.size_in(structure, version))
            }
        }
    }

    /// The smallest size of an array's element, as a Rust expression.
    pub(super) fn element_size(&self, element: &Type) -> String {
        match element {
            Type::Struct(name) => format!("{name}::SIZE_MIN"),
            Type::Bool
            | Type::Integer(_)
            | Type::Float64
            | Type::String
            | Type::Bytes
            | Type::Records
            | Type::Uuid
            | Type::Array(_) => {
                let reach = self.reach();
                let sizes =
                    (reach.low..=reach.high).map(|version| self.type_size(element, version, false));
                sizes.min().unwrap_or(1).to_string()
            }
        }
    }
}

/// Whether the field is an `Option` in Rust. `Records` has its own null.
pub(super) fn is_option(field: &Field) -> bool {
    !field.nullable.is_empty() && field.kind != Type::Records
}

/// The Rust type of a value that is not null.
pub(super) fn rust_type(kind: &Type) -> String {
    match kind {
        Type::Bool => "bool".to_owned(),
        Type::Integer(name) => (*name).to_owned(),
        Type::Float64 => "f64".to_owned(),
        Type::String => "Str".to_owned(),
        Type::Bytes => "Bytes".to_owned(),
        Type::Records => "Records".to_owned(),
        Type::Uuid => "Uuid".to_owned(),
        Type::Struct(name) => name.clone(),
        Type::Array(element) => format!("Vec<{}>", rust_type(element)),
    }
}

/// The name of a field in Rust.
pub(super) fn field_name(field: &Field) -> String {
    let name = snake(&field.name);
    if matches!(name.as_str(), "type" | "match" | "ref" | "move" | "loop" | "use" | "where") {
        return name + "_";
    }
    name
}

/// `TopicId` and `topicId` as `topic_id`.
pub(super) fn snake(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut snake = String::new();
    for (index, letter) in letters.iter().enumerate() {
        let after_lower = index > 0 && !letters[index - 1].is_uppercase();
        let ends_acronym =
            index > 0 && letters.get(index + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (after_lower || ends_acronym) {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_where_a_reader_would_cut_them() {
        for (name, expected) in [
            ("TopicId", "topic_id"),
            ("topicId", "topic_id"),
            ("ThrottleTimeMs", "throttle_time_ms"),
            ("LastKnownElr", "last_known_elr"),
            ("ISRNodes", "isr_nodes"),
            ("Type", "type"),
        ] {
            assert_eq!(snake(name), expected);
        }
    }
}
