//! `env`: lists environments, and removes those that no kept run needs.

use serde::Serialize;

use crate::cli::{EnvironmentsCommand, LockArgs};
use crate::report::json;
use refresh_environments::Record;
use refresh_environments::list::{Listed, Standing};
use refresh_installation::exit::{Error, Success};
use refresh_installation::installation::Installation;
use refresh_installation::{history, status_file};
use refresh_settings::layout::Layout;
use refresh_settings::names::{EnvironmentName, RunId};
use refresh_system::clock;
use refresh_system::error::Outcome;
use refresh_system::manifest::contamination::Contamination;
use refresh_system::screen::{Tone, paint, print_line};
use refresh_system::text::{count, harmless_line, size};

use super::{lock, open, refuse};

/// The output of `env list --json`.
#[derive(Debug, Serialize)]
struct List {
    schema: u32,
    environments: Vec<Line>,
}

/// One environment.
#[derive(Debug, Serialize)]
struct Line {
    name: EnvironmentName,
    state: Standing,
    /// Whether `venv` points to it.
    live: bool,
    /// Whether it belongs to the pair that passed the health check last.
    last_good: bool,
    digest: Option<String>,
    packages: Option<usize>,
    files: Option<u64>,
    bytes: Option<u64>,
    recorded_at: Option<jiff::Timestamp>,
    /// The run that built it.
    run: Option<RunId>,
    contamination: Option<Contamination>,
}

/// Performs `env …`.
pub(super) fn environments(layout: &Layout, command: &EnvironmentsCommand) -> Result<Success, Error> {
    let on = open(layout, "environments")?;
    let context = |failure| refuse(&on, "env", failure, "ladylinux-refresh env list");
    match command {
        EnvironmentsCommand::List { json } => {
            let environments = on.environments().overview().map_err(context)?;
            let list = List {
                schema: 2,
                environments: environments.into_iter().map(|listed| line(&on, listed)).collect(),
            };
            if *json {
                print_line(&json::pretty(&list));
            } else {
                show(&list);
            }
        }
        EnvironmentsCommand::Prune { keep, dry_run } => {
            let keep = keep.unwrap_or(on.settings.keep);
            if *dry_run {
                prune(&on, keep, Doing::Listing).map_err(context)?;
            } else {
                let _lock = lock(layout, "env prune", None, &LockArgs::default())?;
                prune(&on, keep, Doing::Removing).map_err(context)?;
            }
        }
    }
    Ok(Success::Done)
}

fn line(on: &Installation, listed: Listed) -> Line {
    let Listed { name, standing, record, contamination } = listed;
    let deployed = status_file::read(&on.layout).deployed.map(|pair| pair.environment);
    let of = |field: fn(&Record) -> u64| record.as_ref().map(field);
    Line {
        live: on.live().as_ref() == Some(&name),
        last_good: deployed.as_ref() == Some(&name),
        name,
        state: standing,
        digest: record.as_ref().and_then(|record| record.digest.clone()),
        packages: record.as_ref().map(|record| record.packages.len()),
        files: of(|record| record.files),
        bytes: of(|record| record.bytes),
        recorded_at: record.as_ref().map(|record| record.recorded_at),
        run: record.as_ref().and_then(|record| Some(record.built()?.run.clone())),
        contamination,
    }
}

fn show(list: &List) {
    for line in &list.environments {
        let tone = match line.state {
            Standing::Good | Standing::Adopted => Tone::Good,
            Standing::Contaminated => Tone::Bad,
            Standing::Incomplete => Tone::Warning,
        };
        let mut marks = Vec::new();
        marks.extend(line.live.then_some("live"));
        marks.extend(line.last_good.then_some("last good"));
        let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
        print_line(&format!("{}  {}{marks}", line.name, paint(tone, line.state.as_ref())));
        let mut words = Vec::new();
        words.extend(line.packages.map(|number| count(number, "package")));
        words.extend(line.bytes.map(size));
        words.extend(line.recorded_at.map(clock::in_words));
        words.extend(line.run.as_ref().map(|run| format!("run {run}")));
        if !words.is_empty() {
            print_line(&format!("  {}", words.join(", ")));
        }
        if let Some(digest) = &line.digest {
            print_line(&paint(Tone::Quiet, &format!("  digest {digest}")));
        }
        if let Some(found) = &line.contamination {
            print_line(&format!("  changed manually: {}", harmless_line(&found.in_words(3))));
        }
    }
    if list.environments.is_empty() {
        print_line("no environment exists");
    }
}

/// Whether environments are removed or only listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Listing,
    Removing,
}

fn prune(on: &Installation, keep: usize, doing: Doing) -> Outcome<()> {
    let keep: Vec<EnvironmentName> = history::kept(on, keep)?.environments.into_iter().collect();
    let found = on.environments().prunable(&keep)?;
    let has_directory = |name: EnvironmentName| (on.layout.environment(&name).is_dir(), name);
    let names: Vec<_> = found.into_iter().map(has_directory).collect();
    if doing == Doing::Removing {
        on.environments().prune(&keep)?;
    }
    let word = if doing == Doing::Listing { "would be removed" } else { "removed" };
    for (has_directory, name) in &names {
        let record = if *has_directory { "" } else { "record for a rebuild " };
        print_line(&format!("{name}  {record}{word}"));
    }
    if names.is_empty() {
        print_line("nothing to remove: every environment is needed");
    }
    Ok(())
}
