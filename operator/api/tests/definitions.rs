//! `crds/` equals what the code generates. Update it with `UPDATE_CRDS=1 cargo test -p
//! ropewalk-operator-api --test definitions`.

#![expect(clippy::disallowed_methods, reason = "it reads and writes the files of crds/")]

use std::fs;
use std::path::Path;

use ropewalk_operator_api::definitions;

#[test]
fn crds_are_what_the_code_says() {
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where"))
        .join("../../crds");
    let mut names = Vec::new();
    for (name, definition) in definitions::all() {
        let expected = definitions::yaml(&definition).expect("YAML");
        let path = folder.join(name);
        if std::env::var_os("UPDATE_CRDS").is_some() {
            fs::write(&path, &expected).expect("crds/ can be written");
        }
        let actual = fs::read_to_string(&path).unwrap_or_default();
        assert!(actual == expected, "crds/{name} differs from the code: set UPDATE_CRDS=1");
        names.push(name.to_owned());
    }
    let mut there: Vec<_> = fs::read_dir(folder)
        .expect("crds/")
        .map(|entry| entry.expect("crds/").file_name().into_string().expect("a name"))
        .collect();
    there.sort();
    assert_eq!(there, names, "crds/ holds nothing else");
}
