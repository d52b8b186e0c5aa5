//! The image of a broker.
//!
//! **K5** Without `version`, `tag` or `digest` a broker keeps its image, whatever the default of
//! the operator is.

use ropewalk_operator_api::BrokerClusterSpec;

/// Whether the user chose the release.
#[must_use]
pub fn is_chosen(spec: &BrokerClusterSpec) -> bool {
    let image = spec.image.as_ref();
    spec.version.is_some()
        || image.is_some_and(|image| image.tag.is_some() || image.digest.is_some())
}

/// The image that a broker should run, given the operator's `default` and the broker's `current`
/// image.
#[must_use]
pub fn wanted(spec: &BrokerClusterSpec, default: &str, current: Option<&str>) -> String {
    let image = spec.image.clone().unwrap_or_default();
    let (default_repository, default_rest) = split(default);
    let repository = image.repository.as_deref().unwrap_or(default_repository);
    if let Some(digest) = image.digest {
        return format!("{repository}@{digest}");
    }
    if let Some(tag) = image.tag.as_ref().or(spec.version.as_ref()) {
        return format!("{repository}:{tag}");
    }
    match current {
        // The default repository may differ between releases: a running broker keeps its own.
        Some(current) if image.repository.is_none() => current.to_owned(),
        Some(current) if split(current).0 == repository => current.to_owned(),
        Some(_) | None => format!("{repository}{default_rest}"),
    }
}

/// Splits an image into its repository and the rest, which begins with `:` or `@` or is empty.
fn split(image: &str) -> (&str, &str) {
    if let Some(at) = image.find('@') {
        return image.split_at(at);
    }
    let path = image.rfind('/').map_or(0, |slash| slash + 1);
    match image[path..].find(':') {
        Some(colon) => image.split_at(path + colon),
        None => (image, ""),
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_operator_api::cluster::Image;

    use super::*;

    const DEFAULT: &str = "registry:5000/ropewalk/broker:0.1.0";

    #[test]
    fn k5_a_new_default_does_not_move_what_runs() {
        let spec = BrokerClusterSpec::default();
        assert_eq!(wanted(&spec, DEFAULT, None), DEFAULT);
        let current = "ghcr.io/ropewalk/broker:0.0.9";
        assert_eq!(wanted(&spec, DEFAULT, Some(current)), current);
        assert!(!is_chosen(&spec));
    }

    #[test]
    fn what_the_user_chose_wins() {
        let mut spec =
            BrokerClusterSpec { version: Some("0.2.0".into()), ..BrokerClusterSpec::default() };
        assert_eq!(wanted(&spec, DEFAULT, Some("x:1")), "registry:5000/ropewalk/broker:0.2.0");
        spec.image = Some(Image { repository: Some("mine/b".into()), ..Image::default() });
        assert_eq!(wanted(&spec, DEFAULT, Some("x:1")), "mine/b:0.2.0");
        spec.image = Some(Image { digest: Some("sha256:00".into()), ..Image::default() });
        assert_eq!(wanted(&spec, DEFAULT, None), "registry:5000/ropewalk/broker@sha256:00");
    }

    #[test]
    fn another_repository_alone_takes_the_default_release() {
        let image = Image { repository: Some("mine/b".into()), ..Image::default() };
        let spec = BrokerClusterSpec { image: Some(image), ..BrokerClusterSpec::default() };
        assert_eq!(wanted(&spec, DEFAULT, Some("other/b:3")), "mine/b:0.1.0");
        assert_eq!(wanted(&spec, DEFAULT, Some("mine/b:3")), "mine/b:3");
    }
}
