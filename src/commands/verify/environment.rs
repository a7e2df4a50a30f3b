//! `verify environment`: checks whether environments are unchanged since their build, byte for byte.

use serde::Serialize;
use serde_json::Value;

use crate::cli::LockArgs;
use crate::commands::context::{lock, open, refuse};
use refresh_environments::{Record, RecordedEnvironment, VenvState};
use refresh_installation::exit::Error;
use refresh_installation::installation;
use refresh_installation::installation::Installation;
use refresh_settings::layout::Layout;
use refresh_settings::names::EnvironmentName;
use refresh_system::clock;
use refresh_system::error::{Failure, Outcome};
use refresh_system::manifest::contamination::Contamination;
use refresh_system::screen::{Tone, fact, paint};
use refresh_system::text::{count, duration, harmless, size};

/// The output of `verify --json`.
#[derive(Debug, Serialize)]
struct Verified {
    schema: u32,
    /// Whether everything is unchanged since its build.
    ok: bool,
    environments: Vec<Environment>,
    duration_ms: u64,
}

/// One environment.
#[derive(Debug, Serialize)]
struct Environment {
    name: EnvironmentName,
    live: bool,
    digest: Option<String>,
    files: u64,
    bytes: u64,
    /// Whether there is a record to compare with; a directory from before the tool has none.
    verifiable: bool,
    contamination: Option<Contamination>,
    /// The problem of its interpreter.
    interpreter: Option<String>,
}

/// The environments to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The one in use.
    Live,
    /// All of them.
    All,
}

/// The result for environments.
pub(super) struct Checked {
    on: Installation,
    verified: Verified,
}

/// Reads every byte of the live environment, or of all.
pub(super) fn verify(layout: &Layout, which: Which) -> Result<Checked, Error> {
    let on = open(layout, "verify")?;
    let context = |failure| refuse(&on, "verify", failure, "ladylinux-refresh run");
    let start = clock::monotonic();
    let chosen = chosen(&on, which == Which::All).map_err(context)?;
    let live = on.live();
    let mut verified = Vec::new();
    for environment in &chosen {
        let found = examine(&on, environment, live.as_ref()).map_err(context)?;
        if let Some(contamination) = &found.contamination {
            write_down(layout, &on, environment, contamination);
        }
        verified.push(found);
    }
    let ok = verified.iter().all(|it| it.contamination.is_none() && it.interpreter.is_none());
    let duration_ms = clock::millis_since(start);
    let verified = Verified { schema: 2, ok, environments: verified, duration_ms };
    Ok(Checked { on, verified })
}

impl Checked {
    /// Returns whether all environments are unchanged since their build.
    pub(super) fn is_ok(&self) -> bool {
        self.verified.ok
    }

    /// Returns whether all environments have a record to compare with. An environment from before the tool has none.
    pub(super) fn is_compared(&self) -> bool {
        self.verified.environments.iter().all(|it| it.verifiable)
    }

    /// Returns the result for programs.
    pub(super) fn json(&self) -> Value {
        serde_json::to_value(&self.verified).unwrap_or_default()
    }

    /// Returns the verdict, then each environment.
    pub(super) fn lines(&self) -> Vec<String> {
        let Verified { ok, environments, duration_ms, .. } = &self.verified;
        let (tone, word) = match (*ok, self.is_compared()) {
            (false, _) => (Tone::Bad, "changed"),
            (true, true) => (Tone::Good, "good"),
            (true, false) if environments.iter().any(|it| it.verifiable) => {
                (Tone::Warning, "partly compared")
            }
            (true, false) => (Tone::Warning, "not compared"),
        };
        let number = count(environments.len(), "environment");
        let took = duration(*duration_ms);
        let mut lines =
            vec![format!("Environment: {}; every byte of {number} read in {took}", paint(tone, word))];
        show(&self.verified, &mut lines);
        if !ok {
            let next = self.on.as_typed("ladylinux-refresh run");
            lines.extend(fact("next", &paint(Tone::Strong, &next), usize::MAX));
        }
        lines
    }
}

fn chosen(on: &Installation, all: bool) -> Outcome<Vec<RecordedEnvironment>> {
    let venv = on.layout.venv();
    let why = match on.environments().current()? {
        VenvState::Recorded(live) if !all => return Ok(vec![*live]),
        _ if all => return on.environments().list(),
        VenvState::Missing => "is missing".to_owned(),
        VenvState::RealDirectory => "is a directory that this tool did not make".to_owned(),
        VenvState::Unrecorded(path) => format!("points to {}, which has no record", path.display()),
        VenvState::Recorded(_) => "cannot be verified".to_owned(),
    };
    Err(Failure::new(format!("{} {why}", venv.display())))
}

fn examine(
    on: &Installation,
    environment: &RecordedEnvironment,
    live: Option<&EnvironmentName>,
) -> Outcome<Environment> {
    let record = &environment.record;
    Ok(Environment {
        name: environment.name.clone(),
        live: live == Some(&environment.name),
        digest: record.digest.clone(),
        files: record.files,
        bytes: record.bytes,
        verifiable: record.built().is_some(),
        contamination: on.environments().contamination_by_bytes(environment)?,
        interpreter: on.environments().interpreter_problem(environment)?,
    })
}

/// Records that an environment was changed: the next run then does not use it, even if only its bytes differ. A caller
/// without permission to write, or during a run, still gets the result.
fn write_down(layout: &Layout, on: &Installation, environment: &RecordedEnvironment, found: &Contamination) {
    if installation::check_writable(layout).is_err() {
        return;
    }
    let Ok(_lock) = lock(layout, "verify", None, &LockArgs::default()) else { return };
    // Meanwhile a run may have begun and ended, and may have built another environment of this name.
    let now = Record::read(layout, &environment.name).ok().flatten();
    if now.is_none_or(|now| now.recorded_at != environment.record.recorded_at) {
        return;
    }
    if let Err(failure) = on.environments().mark_contaminated(environment, found) {
        on.runner.events().warn(&format!("it cannot be written down: {}", failure.chain().join(": ")));
    }
}

fn show(verified: &Verified, lines: &mut Vec<String>) {
    for environment in &verified.environments {
        let live = if environment.live { " (live)" } else { "" };
        let name = format!("{}{live}", environment.name);
        let content = format!(
            "{}, {}",
            count(usize::try_from(environment.files).unwrap_or(0), "file"),
            size(environment.bytes)
        );
        if !environment.verifiable {
            lines.push(format!("{name}  {content}: from before the tool, with no record to compare"));
            continue;
        }
        let is_good = environment.contamination.is_none() && environment.interpreter.is_none();
        let word = if is_good { paint(Tone::Good, "as it was built") } else { paint(Tone::Bad, "changed") };
        lines.push(format!("{name}  {content}: {word}"));
        if let Some(digest) = environment.digest.as_ref().filter(|_| is_good) {
            lines.push(format!("  digest       {digest}"));
        }
        if let Some(found) = &environment.contamination {
            for finding in &found.found {
                lines.push(format!("  {}", harmless(&finding.to_string())));
            }
            if found.count > found.found.len() {
                lines.push(format!("  and {} more", found.count - found.found.len()));
            }
        }
        if let Some(problem) = &environment.interpreter {
            lines.push(format!("  interpreter  {}", harmless(problem)));
        }
    }
}
