//! `config show`: every setting in force as a `refresh.toml`, with the origin of each value.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use toml::{Table, Value};

use crate::cli::ConfigShowArgs;
use crate::report::json;
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_installation::installation::Installation;
use refresh_installation::status_file;
use refresh_programs::process::Runner;
use refresh_settings::file::HostFile;
use refresh_settings::keys::host_keys;
use refresh_settings::layers::Layers;
use refresh_settings::layout::Layout;
use refresh_settings::names::without_credentials;
use refresh_settings::{Origin, Settings, Transport, trust};
use refresh_system::environment;
use refresh_system::error::{Context as _, Outcome};
use refresh_system::screen;
use refresh_system::screen::{Tone, paint, print_line};
use refresh_system::text::{acts, harmless_line};

/// The output of `config show --json`.
#[derive(Debug, Serialize)]
struct Shown {
    schema: u32,
    /// The file in force.
    file: PathBuf,
    exists: bool,
    /// The file that exists but is not in force, with the reason.
    ignored: Option<String>,
    /// Why the application's file of the deployed commit is left out.
    application_unread: Option<String>,
    settings: Vec<Setting>,
}

/// One setting in force.
#[derive(Debug, Serialize)]
struct Setting {
    /// The key with its table; `hook[0].name` in a hook.
    key: String,
    /// The value; `None` if it is not set.
    value: Option<Value>,
    #[serde(flatten)]
    origin: Source,
}

/// The origin of a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "origin", rename_all = "lowercase")]
enum Source {
    Default,
    Application,
    File { line: usize },
    Environment { name: &'static str },
    Option { name: &'static str },
}

/// Prints the settings in force.
pub(super) fn show(layout: &Layout, args: &ConfigShowArgs) -> Result<Success, Error> {
    let layers = super::super::settings(layout, args.overrides.clone())?;
    let shown = read(layout, &layers).map_err(|failure| Refusal::of("config show", failure))?;
    if args.json {
        print_line(&json::pretty(&shown));
    } else {
        print(&shown, args.origin);
    }
    Ok(Success::Done)
}

fn read(layout: &Layout, layers: &Layers) -> Outcome<Shown> {
    let text = trust::host_file(layout)?
        .map(String::from_utf8)
        .transpose()
        .context(|| format!("{} is not UTF-8", layout.host_file().display()))?;
    let places = Layers::places_of_host(text.as_deref().unwrap_or_default());
    let (settings, application_unread) = deployed(layout, layers)?;
    let file = Table::try_from(HostFile::in_force(layers, &settings))
        .context(|| "the settings cannot be written as TOML".to_owned())?;
    let mut shown = Shown {
        schema: 1,
        file: layout.host_file(),
        exists: text.is_some(),
        ignored: trust::ignored(layout).map(|ignored| ignored.to_string()),
        application_unread,
        settings: Vec::new(),
    };
    let tables: Vec<&str> = host_keys().iter().map(|(table, _)| *table).collect();
    for (table, keys) in host_keys().into_iter().filter(|(table, _)| *table != "hook") {
        for key in keys.iter().filter(|key| !(table.is_empty() && tables.contains(key))) {
            let full = if table.is_empty() { (*key).to_owned() } else { format!("{table}.{key}") };
            let of = if table.is_empty() { Some(&file) } else { file.get(table).and_then(Value::as_table) };
            let value = of.and_then(|of| of.get(*key)).cloned();
            shown.settings.push(setting(full, value, &settings, &places));
        }
    }
    shown.settings.extend(hooks(&file, &settings, &places));
    Ok(shown)
}

/// Returns the settings with those of the application's file in the deployed commit, or the reason why that file is
/// left out.
fn deployed(layout: &Layout, layers: &Layers) -> Outcome<(Settings, Option<String>)> {
    let Some(pair) = status_file::read(layout).deployed else { return Ok((layers.resolve()?, None)) };
    let runner = Runner::silent();
    match Installation::open(layers.clone(), runner).and_then(|on| on.release(&pair.commit)) {
        Ok(release) => Ok((release.settings, None)),
        Err(failure) => Ok((layers.resolve()?, Some(failure.chain().join(": ")))),
    }
}

fn setting(
    key: String,
    value: Option<Value>,
    settings: &Settings,
    places: &BTreeMap<String, (usize, usize)>,
) -> Setting {
    let other = settings.origins.get(key.as_str());
    if other == Some(&Origin::Flag) {
        let name = option(&key);
        return Setting { key, value, origin: Source::Option { name } };
    }
    if let Some((line, _)) = places.get(&key) {
        return Setting { key, value, origin: Source::File { line: *line } };
    }
    if other == Some(&Origin::Application) {
        return Setting { key, value, origin: Source::Application };
    }
    match from_environment(&key, settings) {
        Some((name, text)) => {
            Setting { key, value: Some(Value::String(text)), origin: Source::Environment { name } }
        }
        None => Setting { key, value, origin: Source::Default },
    }
}

/// Returns the option of a key.
fn option(key: &str) -> &'static str {
    match key {
        "strict_order" => "--no-stage",
        "python.strategy" => "--always-rebuild-venv",
        "models.verify" => "--verify-models",
        _ => "--strict",
    }
}

/// Returns the variable and value that git or uv use for a key that no file sets.
fn from_environment(key: &str, settings: &Settings) -> Option<(&'static str, String)> {
    let transport = settings.remote.checked_url().ok().flatten().map(|url| url.transport);
    let names: &[&'static str] = match (key, transport) {
        ("remote.proxy", Some(Transport::Https)) => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        ("remote.proxy", Some(Transport::Http)) => &["http_proxy", "all_proxy", "ALL_PROXY"],
        ("remote.ca_file", Some(Transport::Https | Transport::Http)) => &["SSL_CERT_FILE"],
        ("python.index_url", _) => &["PIP_INDEX_URL", "UV_DEFAULT_INDEX"],
        _ => &[],
    };
    names.iter().find_map(|name| {
        let value = environment::variable(name)?;
        Some((*name, if key == "remote.ca_file" { value } else { without_credentials(&value) }))
    })
}

fn hooks(file: &Table, settings: &Settings, places: &BTreeMap<String, (usize, usize)>) -> Vec<Setting> {
    let tables = file.get("hook").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let of_application = settings.hooks.iter().filter(|hook| hook.origin == Origin::Application).count();
    let mut found = Vec::new();
    let [.., (_, keys)] = host_keys();
    for (at, table) in tables.iter().enumerate() {
        for (key, value) in keys.iter().filter_map(|key| Some((key, table.get(*key)?))) {
            // The application's hooks come first; the places count only those of the host.
            let place =
                at.checked_sub(of_application).and_then(|at| places.get(&format!("hook[{at}].{key}")));
            let origin = match place {
                _ if at < of_application => Source::Application,
                Some((line, _)) => Source::File { line: *line },
                None => Source::Default,
            };
            found.push(Setting { key: format!("hook[{at}].{key}"), value: Some(value.clone()), origin });
        }
    }
    found
}

fn print(shown: &Shown, with_origin: bool) {
    let file = harmless_line(&shown.file.display().to_string());
    comment(&if shown.exists {
        file.clone()
    } else {
        format!("{file} does not exist: the defaults are in force")
    });
    if let Some(note) = &shown.ignored {
        comment(note);
    }
    if let Some(why) = &shown.application_unread {
        comment(&format!("the application's refresh.toml is left out: {why}"));
    }
    let mut before = String::new();
    for setting in &shown.settings {
        let (table, key) = setting.key.rsplit_once('.').unwrap_or(("", &setting.key));
        let is_hook = table.starts_with("hook[");
        // The output is a file for the host, which must not repeat the application's hooks.
        let lead = if is_hook && setting.origin == Source::Application { "# " } else { "" };
        if table != before {
            print_line("");
            if !lead.is_empty() {
                comment(
                    "in force, from the application's refresh.toml; repeated in the host's file, it would run twice",
                );
            }
            print_line(&if is_hook { format!("{lead}[[hook]]") } else { format!("[{table}]") });
            table.clone_into(&mut before);
        }
        let line = match &setting.value {
            Some(value) => format!("{lead}{key} = {}", in_line(value)),
            None => format!("# {key} is not set"),
        };
        let origin = paint(Tone::Quiet, &format!("  # {}", in_words(&setting.origin, &file)));
        let is_shown = with_origin && setting.value.is_some();
        print_line(&if is_shown { line + &origin } else { line });
    }
}

fn comment(text: &str) {
    print_line(&paint(Tone::Quiet, &format!("# {}", harmless_line(text))));
}

fn in_words(source: &Source, file: &str) -> String {
    match source {
        Source::Default => "default".to_owned(),
        Source::Application => "the application's refresh.toml".to_owned(),
        Source::File { line } => format!("{file}:{line}"),
        Source::Environment { name } => format!("environment {name}"),
        Source::Option { name } => format!("option {name}"),
    }
}

/// Returns a value as TOML on one line of printable characters: some values come from the application's file.
fn in_line(value: &Value) -> String {
    match value {
        Value::String(text) => in_quotes(text),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(in_line).collect::<Vec<_>>().join(", "))
        }
        Value::Table(table) if table.is_empty() => "{}".to_owned(),
        Value::Table(table) => {
            let entries: Vec<String> = table
                .iter()
                .map(|(key, value)| format!("{} = {}", key_in_line(key), in_line(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

fn key_in_line(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !key.is_empty() && key.chars().all(is_bare) { key.to_owned() } else { in_quotes(key) }
}

/// Returns a basic string of TOML. Control characters of terminals are escaped; in an ASCII locale, all non-ASCII
/// characters too.
fn in_quotes(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if acts(c) || (!c.is_ascii() && screen::is_ascii()) => {
                quoted.push_str(&format!("\\U{:08x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_the_application_is_one_line_without_control_characters() {
        let hook: Table = toml::from_str(
            "command = [\"sh\", \"a\\n[[hook]]\\u009b2J\", \"\\u202e\"]\n\"a b\" = \"\\\"q\\\\\"",
        )
        .unwrap();
        let line = in_line(&Value::Table(hook.clone()));
        assert!(!line.contains(acts), "{line:?}");
        let again: Table = toml::from_str(&format!("value = {line}")).unwrap();
        assert_eq!(again["value"], Value::Table(hook));
    }
}
