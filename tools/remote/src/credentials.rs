//! Where the keys of a store come from: the environment, or the profile files of the AWS tools.

use std::env;
use std::path::PathBuf;

use ini::Ini;

/// What a profile says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) key: Option<(String, String)>,
    pub(crate) token: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<String>,
}

fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// That there are no keys.
pub(crate) const NONE: &str = "there are none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile \
    (AWS_PROFILE) of the files of the AWS tools";

/// Whether the environment has keys itself, or says how to get some or to do without: then profiles are not asked.
pub(crate) fn in_environment() -> bool {
    [
        "AWS_ACCESS_KEY_ID",
        "AWS_SKIP_SIGNATURE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ]
    .iter()
    .any(|name| set(name).is_some())
}

/// The profile that `AWS_PROFILE` names, or `default`. Files that are not there say nothing.
///
/// # Errors
/// A file that can't be read as one, or a profile that was named and is in none.
pub(crate) fn profile() -> Result<Profile, String> {
    let named = set("AWS_PROFILE");
    let name = named.clone().unwrap_or_else(|| "default".to_owned());
    let home = set("HOME").map(PathBuf::from);
    let file = |variable: &str, usual: &str| {
        let given = set(variable).map(PathBuf::from);
        given.or_else(|| Some(home.as_ref()?.join(".aws").join(usual)))
    };
    let read = |path: Option<PathBuf>| -> Result<Option<Ini>, String> {
        match path {
            Some(path) if path.is_file() => Ini::load_from_file_noescape(&path)
                .map(Some)
                .map_err(|error| format!("{}: {error}", path.display())),
            _ => Ok(None),
        }
    };
    let credentials = read(file("AWS_SHARED_CREDENTIALS_FILE", "credentials"))?;
    let config = read(file("AWS_CONFIG_FILE", "config"))?;
    let profile = in_files(credentials.as_ref(), config.as_ref(), &name);
    match (profile, named) {
        (None, Some(name)) => Err(format!("no profile {name:?} in the files of the AWS tools")),
        (profile, _) => Ok(profile.unwrap_or_default()),
    }
}

fn in_files(credentials: Option<&Ini>, config: Option<&Ini>, name: &str) -> Option<Profile> {
    let long = format!("profile {name}");
    let sections = [
        credentials.and_then(|file| file.section(Some(name))),
        config.and_then(|file| file.section(Some(long.as_str()))),
        config.and_then(|file| file.section(Some(name)).filter(|_| name == "default")),
    ];
    let sections: Vec<_> = sections.into_iter().flatten().collect();
    let value = |key: &str| {
        let mut values = sections.iter().filter_map(|section| section.get(key));
        values.next().map(str::to_owned)
    };
    let key = value("aws_access_key_id").zip(value("aws_secret_access_key"));
    (!sections.is_empty()).then(|| Profile {
        key,
        token: value("aws_session_token"),
        region: value("region"),
        endpoint: value("endpoint_url"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_put_together_from_both_files() {
        let credentials = Ini::load_from_str_noescape(
            "[default]\naws_access_key_id = A\naws_secret_access_key = B/c+d\\e\n\
             [edge]\naws_access_key_id=C\naws_secret_access_key=D\naws_session_token=E\n",
        )
        .unwrap();
        let config = Ini::load_from_str_noescape(
            "[default]\nregion = eu-north-1\n[profile edge]\nendpoint_url = http://h:1\n[edge]\nregion = wrong\n",
        )
        .unwrap();
        let default = in_files(Some(&credentials), Some(&config), "default").unwrap();
        assert_eq!(default.key, Some(("A".into(), "B/c+d\\e".into())));
        assert_eq!(default.region.as_deref(), Some("eu-north-1"));
        let edge = in_files(Some(&credentials), Some(&config), "edge").unwrap();
        assert_eq!(edge.token.as_deref(), Some("E"));
        assert_eq!(edge.endpoint.as_deref(), Some("http://h:1"));
        assert_eq!(edge.region, None);
        assert_eq!(in_files(Some(&credentials), Some(&config), "other"), None);
        assert_eq!(in_files(None, None, "default"), None);
    }
}
