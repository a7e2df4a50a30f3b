//! `verify --environment`: whether environments are, byte for byte, what was built.

use std::time::Duration;

use serde::Serialize;

use crate::cli::{LockArgs, VerifyArgs};
use crate::clock;
use crate::error::{Failure, Outcome};
use crate::exit::{Ended, Error};
use crate::installation::{self, Installation};
use crate::python::{Contamination, Current, Generation, Record};
use crate::report::json;
use crate::report::screen::{Tone, count, duration, harmless, paint, say, size};
use crate::settings::layout::Layout;
use crate::settings::names::GenerationName;

use super::{lock, open, refuse};

/// What `verify --json` writes.
#[derive(Debug, Serialize)]
struct Verified {
    schema: u32,
    /// Whether everything is as it was built.
    ok: bool,
    environments: Vec<Environment>,
    duration_ms: u64,
}

/// One environment.
#[derive(Debug, Serialize)]
struct Environment {
    generation: GenerationName,
    live: bool,
    digest: Option<String>,
    files: u64,
    bytes: u64,
    /// Whether there is anything to compare with: not for a directory from before the tool.
    verifiable: bool,
    contamination: Option<Contamination>,
    /// What is wrong with its interpreter.
    interpreter: Option<String>,
}

/// Reads every byte of the live environment, or of all.
pub(super) fn verify(layout: &Layout, args: &VerifyArgs) -> Result<Ended, Error> {
    let on = open(layout, "verify")?;
    let context = |failure| refuse(&on, "verify", failure, "ladylinux-refresh run");
    let start = clock::monotonic();
    let generations = chosen(&on, args.all).map_err(context)?;
    let live = on.live();
    let mut environments = Vec::new();
    for generation in &generations {
        let verified = look(&on, generation, live.as_ref()).map_err(context)?;
        if let Some(found) = &verified.contamination {
            write_down(layout, &on, generation, found);
        }
        environments.push(verified);
    }
    let ok = environments.iter().all(|it| it.contamination.is_none() && it.interpreter.is_none());
    let took = clock::monotonic().duration_since(start).as_millis();
    let duration_ms = u64::try_from(took).unwrap_or(u64::MAX);
    let verified = Verified { schema: 1, ok, environments, duration_ms };
    if args.json {
        say(&json::pretty(&verified));
    } else {
        show(&on, &verified);
    }
    Ok(if ok { Ended::Done } else { Ended::Findings })
}

fn chosen(on: &Installation, all: bool) -> Outcome<Vec<Generation>> {
    let venv = on.layout.venv();
    let why = match on.environments().current()? {
        Current::Generation(live) if !all => return Ok(vec![*live]),
        _ if all => return on.environments().list(),
        Current::Missing => "is missing".to_owned(),
        Current::RealDirectory => "is a directory that this tool did not make".to_owned(),
        Current::Unrecorded(path) => format!("leads to {}, of which nothing is known", path.display()),
        Current::Generation(_) => "cannot be verified".to_owned(),
    };
    Err(Failure::new(format!("{} {why}", venv.display())))
}

fn look(on: &Installation, generation: &Generation, live: Option<&GenerationName>) -> Outcome<Environment> {
    let record = &generation.record;
    Ok(Environment {
        generation: generation.name.clone(),
        live: live == Some(&generation.name),
        digest: record.digest.clone(),
        files: record.files,
        bytes: record.bytes,
        verifiable: record.built().is_some(),
        contamination: on.environments().contamination_by_bytes(generation)?,
        interpreter: on.environments().interpreter_trouble(generation)?,
    })
}

/// Writes down that an environment was changed, so that the next run does not use it even where only its bytes tell. Whoever
/// may not write that, or comes while a run is in progress, is told all the same.
fn write_down(layout: &Layout, on: &Installation, generation: &Generation, found: &Contamination) {
    if installation::check_writable(layout).is_err() {
        return;
    }
    let Ok(_lock) = lock(layout, "verify", None, &LockArgs { wait: Duration::ZERO }) else { return };
    // A run may have come and gone while the bytes were read, and have built another one of this name.
    let now = Record::read(layout, &generation.name).ok().flatten();
    if now.is_none_or(|now| now.recorded_at != generation.record.recorded_at) {
        return;
    }
    if let Err(failure) = on.environments().condemn(generation, found) {
        on.runner.events().warn(&format!("it cannot be written down: {}", failure.chain().join(": ")));
    }
}

fn show(on: &Installation, verified: &Verified) {
    for environment in &verified.environments {
        let live = if environment.live { " (live)" } else { "" };
        let name = format!("{}{live}", environment.generation);
        let content = format!(
            "{}, {}",
            count(usize::try_from(environment.files).unwrap_or(0), "file"),
            size(environment.bytes)
        );
        if !environment.verifiable {
            say(&format!("{name}  {content}: from before the tool, nothing to compare with"));
            continue;
        }
        let is_good = environment.contamination.is_none() && environment.interpreter.is_none();
        let word = if is_good { paint(Tone::Good, "as it was built") } else { paint(Tone::Bad, "changed") };
        say(&format!("{name}  {content}: {word}"));
        if let Some(digest) = environment.digest.as_ref().filter(|_| is_good) {
            say(&format!("  digest       {digest}"));
        }
        if let Some(found) = &environment.contamination {
            for finding in &found.found {
                say(&format!("  {}", harmless(&finding.to_string())));
            }
            if found.count > found.found.len() {
                say(&format!("  and {} more", found.count - found.found.len()));
            }
        }
        if let Some(trouble) = &environment.interpreter {
            say(&format!("  interpreter  {}", harmless(trouble)));
        }
    }
    if verified.environments.is_empty() {
        say("there is no environment");
    }
    say(&format!("every byte read in {}", duration(verified.duration_ms)));
    if !verified.ok {
        say(&format!("next         {}", on.as_typed("ladylinux-refresh run")));
    }
}
