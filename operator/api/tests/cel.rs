//! The rules of the custom resources, on example objects.
//!
//! `cel/` holds a file per case, `<kind>.<create|update>.<verdict>.<what>.yaml`: one object that is
//! created, or two, the second replacing the first. The first line holds the expected result:
//! `accepted`, or a part of the refusal. The verdict `invalid-by-schema` is for limits that are no
//! rules, and `valid-by-server` for cases that the checker here refuses wrongly (it compares the
//! items of a list by position, not by key). The Kubernetes tests send every file to a real API
//! server.

#![expect(clippy::disallowed_methods, reason = "it reads the cases of tests/cel")]

use std::fs;
use std::path::Path;

use kube_cel::Validator;
use ropewalk_operator_api::definitions;
use serde::Deserialize as _;
use serde_json::Value;

/// The schema of a kind, by the lower-case name that the file names begin with.
fn schema(kind: &str) -> Value {
    let (_, definition) = definitions::all()
        .into_iter()
        .find(|(_, definition)| definition.spec.names.kind.to_lowercase() == kind)
        .unwrap_or_else(|| panic!("there is no kind {kind}"));
    let schema = definition.spec.versions[0].schema.clone().expect("a schema");
    serde_json::to_value(schema.open_api_v3_schema).expect("a schema")
}

fn documents(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("YAML"))
        .filter(|document| !document.is_null())
        .collect()
}

/// The message of every rule that refuses a case.
fn refusals(kind: &str, documents: &[Value]) -> Vec<String> {
    let schema = schema(kind);
    let validator = Validator::new();
    let words = |result: Result<(), kube_cel::ValidationErrors>| match result {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_vec().iter().map(|error| error.message.clone()).collect(),
    };
    match documents {
        [created] => words(validator.validate(&schema, created, None)),
        [old, new] => {
            assert_eq!(words(validator.validate(&schema, old, None)), Vec::<String>::new());
            words(validator.validate(&schema, new, Some(old)))
        }
        _ => panic!("a case has one object or two"),
    }
}

#[test]
fn every_case_is_judged_as_its_name_says() {
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where"))
        .join("tests/cel");
    let mut wrong = Vec::new();
    let mut judged = 0;
    for entry in fs::read_dir(folder).expect("the cases") {
        let path = entry.expect("a case").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let mut parts = name.split('.');
        let (kind, verdict) = (parts.next().expect("a kind"), parts.nth(1).expect("a verdict"));
        let text = fs::read_to_string(&path).expect("a case");
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# expect: "));
        let expected = expected.unwrap_or_else(|| panic!("{name} expects nothing"));
        assert_eq!(verdict.starts_with("valid"), expected == "accepted", "{name}");
        let refusals = match verdict {
            "invalid-by-schema" | "valid-by-server" => continue,
            _ => refusals(kind, &documents(&text)),
        };
        judged += 1;
        let right = match verdict {
            "valid" => refusals.is_empty(),
            _ => !refusals.is_empty() && refusals.iter().all(|words| words.contains(expected)),
        };
        if !right {
            wrong.push(format!("{name}: expected {expected}, got {refusals:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(judged >= 40, "only {judged} cases were found");
}

#[test]
fn samples_are_read_as_they_are_written() {
    for (text, partitions) in [("{}", 12), ("{partitions: 3}", 3)] {
        let yaml = format!(
            "{{apiVersion: ropewalk.dev/v1alpha1, kind: Queue, metadata: {{name: a, namespace: n}}, spec: {text}}}"
        );
        let queue: ropewalk_operator_api::Queue = serde_yaml_ng::from_str(&yaml).expect("a Queue");
        assert_eq!(queue.spec.partitions, partitions);
        assert_eq!((queue.topic(), queue.cluster()), ("a", "default"));
    }
}
