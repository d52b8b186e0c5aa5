//! Reads the schemas: JSON with comments, one file per message.
//!
//! A struct that is defined inside a field becomes an entry of a flat list of structs, in which the
//! message's own struct is the first. An unknown attribute is an error, because it could change the
//! wire format.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::versions::Versions;

/// One message with all its versions.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) key: Option<i16>,
    /// Whether a broker listens for it. False for requests that only controllers accept.
    pub(crate) to_broker: bool,
    pub(crate) versions: Versions,
    pub(crate) flexible: Versions,
    /// The message's own struct, then its nested structs.
    pub(crate) structs: Vec<Struct>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Request,
    Response,
    Header,
    Data,
}

#[derive(Debug)]
pub(crate) struct Struct {
    pub(crate) name: String,
    /// The versions in which the struct can occur.
    pub(crate) reach: Versions,
    pub(crate) fields: Vec<Field>,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: Type,
    pub(crate) versions: Versions,
    pub(crate) nullable: Versions,
    pub(crate) tag: Option<u32>,
    pub(crate) default: Option<String>,
    pub(crate) ignorable: bool,
    /// Encoded in the classic way even in flexible versions.
    pub(crate) never_flexible: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Type {
    Bool,
    /// An integer of any size, signed or not: the name of the Rust type.
    Integer(&'static str),
    Float64,
    String,
    Bytes,
    Records,
    Uuid,
    Struct(String),
    Array(Box<Type>),
}

impl Type {
    fn parse(text: &str) -> Self {
        match text {
            "bool" => Self::Bool,
            "int8" => Self::Integer("i8"),
            "int16" => Self::Integer("i16"),
            "uint16" => Self::Integer("u16"),
            "int32" => Self::Integer("i32"),
            "uint32" => Self::Integer("u32"),
            "int64" => Self::Integer("i64"),
            "float64" => Self::Float64,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "records" => Self::Records,
            "uuid" => Self::Uuid,
            name => match name.strip_prefix("[]") {
                Some(element) => Self::Array(Box::new(Self::parse(element))),
                None => Self::Struct(name.to_owned()),
            },
        }
    }

    /// The struct that this is, or that it is an array of.
    pub(crate) fn struct_name(&self) -> Option<&str> {
        match self {
            Self::Struct(name) => Some(name),
            Self::Array(element) => element.struct_name(),
            Self::Bool
            | Self::Integer(_)
            | Self::Float64
            | Self::String
            | Self::Bytes
            | Self::Records
            | Self::Uuid => None,
        }
    }

    /// Whether the wire format distinguishes this from null.
    const fn can_be_null(&self) -> bool {
        !matches!(self, Self::Bool | Self::Integer(_) | Self::Float64 | Self::Uuid)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MessageJson {
    name: String,
    #[serde(rename = "type")]
    kind: Kind,
    api_key: Option<i16>,
    #[serde(default)]
    listeners: Vec<String>,
    valid_versions: String,
    flexible_versions: Option<String>,
    #[serde(default)]
    fields: Vec<FieldJson>,
    #[serde(default)]
    common_structs: Vec<StructJson>,
    #[serde(rename = "latestVersionUnstable")]
    _latest_version_unstable: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StructJson {
    name: String,
    versions: String,
    fields: Vec<FieldJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FieldJson {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    versions: String,
    nullable_versions: Option<String>,
    tag: Option<u32>,
    tagged_versions: Option<String>,
    flexible_versions: Option<String>,
    #[serde(default)]
    default: Option<serde_json::Value>,
    #[serde(default)]
    ignorable: bool,
    #[serde(default)]
    fields: Vec<FieldJson>,
    // The attributes below do not affect the wire format.
    #[serde(rename = "about")]
    _about: Option<String>,
    #[serde(rename = "entityType")]
    _entity_type: Option<String>,
    #[serde(rename = "mapKey")]
    _map_key: Option<bool>,
    #[serde(rename = "zeroCopy")]
    _zero_copy: Option<bool>,
}

/// Reads every schema of a folder.
pub(crate) fn read_folder(folder: &Path) -> anyhow::Result<Vec<Message>> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    ensure!(!paths.is_empty(), "no schemas in {}", folder.display());
    let read = |path: &std::path::PathBuf| {
        message(&fs::read_to_string(path)?).with_context(|| path.display().to_string())
    };
    paths.iter().map(read).collect()
}

/// Reads one schema.
fn message(text: &str) -> anyhow::Result<Message> {
    let is_comment = |line: &&str| line.trim_start().starts_with("//");
    let json: String = text.lines().filter(|line| !is_comment(line)).collect();
    let json: MessageJson = serde_json::from_str(&json)?;
    let versions = Versions::parse(&json.valid_versions)?;
    let mut structs = vec![];
    lift(json.name.clone(), versions, json.fields, &mut structs)?;
    for common in json.common_structs {
        let reach = Versions::parse(&common.versions)?.and(versions);
        lift(common.name, reach, common.fields, &mut structs)?;
    }
    let names: BTreeSet<_> = structs.iter().map(|structure| &structure.name).collect();
    ensure!(names.len() == structs.len(), "two structs have one name");
    let mut used = structs.iter().flat_map(|structure| &structure.fields);
    let unknown = used.find(|field| {
        field.kind.struct_name().is_some_and(|name| !names.contains(&name.to_owned()))
    });
    ensure!(unknown.is_none(), "unknown type: {unknown:?}");
    Ok(Message {
        name: json.name,
        kind: json.kind,
        key: json.api_key,
        to_broker: json.listeners.iter().any(|listener| listener == "broker"),
        versions,
        flexible: optional_versions(json.flexible_versions.as_ref())?,
        structs,
    })
}

/// Appends a struct and the structs defined inside its fields.
fn lift(
    name: String,
    reach: Versions,
    fields: Vec<FieldJson>,
    structs: &mut Vec<Struct>,
) -> anyhow::Result<()> {
    let at = structs.len();
    structs.push(Struct { name, reach, fields: vec![] });
    for json in fields {
        let kind = Type::parse(&json.kind);
        let versions = Versions::parse(&json.versions)?.and(reach);
        if versions.is_empty() {
            continue;
        }
        if !json.fields.is_empty() {
            let inner = kind.struct_name().context("fields inside a plain type")?.to_owned();
            lift(inner, versions, json.fields, structs)?;
        }
        let tagged = optional_versions(json.tagged_versions.as_ref())?.and(reach);
        ensure!(json.tag.is_none() == tagged.is_empty(), "{}: tag without versions", json.name);
        ensure!(tagged.is_empty() || tagged == versions, "{}: tagged in part", json.name);
        let nullable = optional_versions(json.nullable_versions.as_ref())?.and(versions);
        ensure!(nullable.is_empty() || kind.can_be_null(), "{}: a nullable {kind:?}", json.name);
        let in_part =
            matches!(kind, Type::Struct(_)) && !nullable.is_empty() && nullable != versions;
        ensure!(!in_part, "{}: a struct that is nullable in part of its versions", json.name);
        structs[at].fields.push(Field {
            name: json.name,
            kind,
            versions,
            nullable,
            tag: json.tag,
            // A string, in some schemas a bare `false`.
            default: json
                .default
                .map(|value| value.as_str().map_or(value.to_string(), str::to_owned)),
            ignorable: json.ignorable,
            never_flexible: json.flexible_versions.is_some_and(|versions| versions == "none"),
        });
    }
    Ok(())
}

fn optional_versions(text: Option<&String>) -> anyhow::Result<Versions> {
    text.map_or(Ok(Versions::NONE), |text| Versions::parse(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request with these `fields`.
    fn request(fields: &str) -> anyhow::Result<Message> {
        message(&format!(
            r#"// A licence.
            {{
              "apiKey": 1, "type": "request", "listeners": ["broker"], "name": "AskRequest",
              // What changed when.
              "validVersions": "1-3", "flexibleVersions": "2+",
              "fields": [{fields}]
            }}"#
        ))
    }

    #[test]
    fn structs_inside_fields_are_lifted_out_with_the_versions_they_occur_in() {
        let message = request(
            r#"{ "name": "Topics", "type": "[]Topic", "versions": "2+", "fields": [
                 { "name": "Name", "type": "string", "versions": "0+", "nullableVersions": "3+" },
                 { "name": "Gone", "type": "int8", "versions": "0-1" } ] }"#,
        )
        .expect("a sound schema");
        let [ask, topic] = message.structs.as_slice() else { panic!("two structs") };
        assert_eq!(ask.fields[0].kind, Type::Array(Box::new(Type::Struct("Topic".to_owned()))));
        assert_eq!(topic.reach, Versions { low: 2, high: 3 });
        assert_eq!(topic.fields.len(), 1, "a field that no version has is left out");
        assert_eq!(topic.fields[0].nullable, Versions { low: 3, high: 3 });
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for fields in [
            r#"{ "name": "A", "type": "int8", "versions": "0+", "endianness": "little" }"#,
            r#"{ "name": "A", "type": "[]Nowhere", "versions": "0+" }"#,
            r#"{ "name": "A", "type": "int8", "versions": "0+", "nullableVersions": "0+" }"#,
            r#"{ "name": "A", "type": "int8", "versions": "0+", "tag": 0 }"#,
            r#"{ "name": "A", "type": "int8", "versions": "1+", "tag": 0, "taggedVersions": "2+" }"#,
        ] {
            assert!(request(fields).is_err(), "{fields}");
        }
    }
}
