//! The request for a run or a rollback: the command line, and the same command line of a worker.

use crate::bundle::BundleOptions;
use crate::cli;
use crate::cli::{BundleArgs, LockArgs, RollbackArgs, RunArgs};
use refresh_installation::history;
use refresh_installation::history::CurrentState;
use refresh_installation::installation::Installation;
use refresh_installation::status_file;
use refresh_programs::units::Role;
use refresh_run::plan::Target;
use refresh_run::plan::space::Makes;
use refresh_service::deployed::Deployment;
use refresh_service::probe;
use refresh_service::probe::ProbeResult;
use refresh_settings::layers::Overrides;
use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_source::work_tree;
use refresh_system::error::Outcome;
use refresh_system::text;

/// The state that `init` found: the run that replaced it is not a run that made it.
pub(super) const BEFORE_FIRST_RUN: &str = "from before the first run";

/// The request for a run or a rollback.
pub(super) struct RunRequest {
    /// Its options that are settings.
    pub(super) overrides: Overrides,
    /// Whether it does nothing if nothing would change.
    pub(super) if_changed: bool,
    /// Whether no person decided to deploy the commit.
    pub(super) unattended: bool,
    /// The wait for another run.
    pub(super) lock: LockArgs,
    /// The command that requests the same again, without the options of report and wait.
    pub(super) again: String,
    /// The bundle that it uses instead of the network.
    pub(super) bundle: Option<BundleOptions>,
    words: Vec<String>,
    aim: Aim,
}

/// The requested target of a run.
enum Aim {
    /// The latest commit of a branch, or of the default one.
    Branch(Option<BranchName>),
    /// The state after an earlier run, or the last good one.
    Earlier(Option<RunId>),
}

impl RunRequest {
    /// Returns the request of the command line of `run`.
    ///
    /// # Errors
    /// The branch is not a valid name, or a path is not UTF-8.
    pub(super) fn of_run(mut args: RunArgs) -> Outcome<Self> {
        args.options.normalize();
        let branch = args.options.branch.as_deref().map(BranchName::parse).transpose()?;
        let words = cli::words::of("run", &args)?;
        let bundle = bundle_options(&args.options.bundle);
        let overrides = args.options.overrides;
        let new = Self::new(words, Aim::Branch(branch), args.lock);
        let unattended = args.if_changed || args.unattended;
        Ok(Self { overrides, if_changed: args.if_changed, unattended, bundle, ..new })
    }

    /// Returns the request of the command line of `rollback`; `run` is the run that it names.
    ///
    /// # Errors
    /// None: an ID is text.
    pub(super) fn of_rollback(args: &RollbackArgs, run: Option<RunId>) -> Outcome<Self> {
        let named = RollbackArgs { run: run.as_ref().map(ToString::to_string), ..args.clone() };
        Ok(Self::new(cli::words::of("rollback", &named)?, Aim::Earlier(run), args.lock.clone()))
    }

    fn new(words: Vec<String>, aim: Aim, lock: LockArgs) -> Self {
        let typed: Vec<String> = words.iter().filter(|word| *word != "--unattended").cloned().collect();
        let (again, overrides) = (again(&typed), Overrides::default());
        Self { overrides, if_changed: false, unattended: false, lock, again, bundle: None, words, aim }
    }

    /// Returns the name of the command in reports.
    pub(super) fn command(&self) -> &'static str {
        match self.aim {
            Aim::Branch(_) => "run",
            Aim::Earlier(_) => "rollback",
        }
    }

    /// Returns the kind of data that the run creates, as far as that is known before its target.
    pub(super) fn makes(&self) -> Makes {
        match self.aim {
            Aim::Branch(_) => Makes::New,
            Aim::Earlier(_) => Makes::Nothing,
        }
    }

    /// Returns the command line of the worker, which requests the same.
    pub(super) fn for_worker(&self) -> Vec<String> {
        let mut words = self.words.clone();
        words.push(format!("--wait={}s", self.lock.wait.as_secs()));
        words
    }

    /// Returns the target, when the installation is open.
    ///
    /// # Errors
    /// The bundle has another branch, or there is no earlier state to return to.
    pub(super) fn target(&self, on: &Installation) -> Outcome<Target> {
        match &self.aim {
            Aim::Branch(branch) => Ok(Target::Latest(choose_branch(on, branch.clone())?)),
            Aim::Earlier(run) => {
                let now = CurrentState {
                    fenced: on.is_fenced(),
                    commit: work_tree::of(on)?.commit,
                    environment: on.live(),
                };
                let pair = history::rollback_target(&on.layout, run.as_ref(), &now)?;
                let from = now.commit.as_ref().map_or("no commit", |commit| commit.short());
                let of = if history::is_adopted(&on.layout, &pair.environment) {
                    BEFORE_FIRST_RUN.to_owned()
                } else {
                    format!("of run {}", pair.run)
                };
                on.runner.events().note(&format!("from {from} to {} {of}", pair.commit.short()));
                Ok(Target::Earlier(pair))
            }
        }
    }
}

/// Returns a command line of this program in the form to type.
pub(super) fn again(words: &[String]) -> String {
    let words = words.iter().map(|word| text::quoted(word));
    ["ladylinux-refresh".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

/// Returns the bundle of the command line, whose path is absolute.
pub(super) fn bundle_options(args: &BundleArgs) -> Option<BundleOptions> {
    let (allow_older, allow_unrelated) = (args.allow_older, args.allow_unrelated);
    args.bundle.clone().map(|file| BundleOptions { file, allow_older, allow_unrelated })
}

/// Returns the branch of the bundle if there is one, else the requested branch, else the usual one.
pub(super) fn choose_branch(on: &Installation, asked: Option<BranchName>) -> Outcome<BranchName> {
    match &on.offline {
        Some(source) => source.branch(on, asked),
        None => Ok(asked.unwrap_or_else(|| usual_branch(on))),
    }
}

/// Returns the branch that is used if none is named.
pub(super) fn usual_branch(on: &Installation) -> BranchName {
    let deployed = status_file::read(&on.layout).deployed.map(|pair| pair.branch);
    on.settings.branch_to_follow(deployed)
}

/// Starts the unit of the health check in the background. For a socket in the file system, the unit that reads the tree
/// sends the requests.
pub(super) fn start_probe_beforehand(on: &Installation) {
    if probe::role(on.settings.probe.url.as_deref()) == Role::Probe {
        on.units.start_beforehand(Role::Probe);
    }
}

/// Sends one request to the running service, like step 5: a service that runs and does not answer is not up to date.
pub(super) fn answers(on: &Installation, commit: &CommitId) -> Outcome<bool> {
    let env_file = on.env_file()?;
    let deployed = Deployment::read(&on.layout).ok().flatten();
    let probe = probe::resolve(&on.release(commit)?.settings.probe, &env_file, deployed.as_ref())?;
    Ok(matches!(probe::probe_once(&probe, &on.units)?, ProbeResult::Good { .. }))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &[String]) -> RunArgs {
        let words = ["ladylinux-refresh".to_owned()].into_iter().chain(line.iter().cloned());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_worker_gets_every_option_of_a_run_and_nothing_of_its_report() {
        let line = "run -b feature/x --if-changed --no-stage --always-rebuild-venv --verify-models \
                    --bundle=/a --allow-older --allow-unrelated --strict --wait 5m --json --detach -v --unattended";
        let request = RunRequest::of_run(args(&line.split(' ').map(str::to_owned).collect::<Vec<_>>()));
        let words = request.unwrap().for_worker();
        let expected = "run --if-changed --no-stage --always-rebuild-venv --verify-models=full --strict \
                        --bundle=/a --allow-older --allow-unrelated --unattended feature/x --wait=300s";
        let mut sorted = [words.clone(), expected.split(' ').map(str::to_owned).collect()];
        for words in &mut sorted {
            words.sort();
        }
        assert_eq!(sorted[0], sorted[1]);
        let again = RunRequest::of_run(args(&words)).unwrap();
        assert_eq!(again.for_worker(), words);
        assert!(again.if_changed && again.unattended && again.overrides.strict && again.overrides.no_stage);
        assert!(!again.again.contains("--unattended"), "{}", again.again);
    }

    #[test]
    fn a_bundle_is_named_by_an_absolute_path() {
        let request = RunRequest::of_run(args(&["run".to_owned(), "--bundle=a b".to_owned()])).unwrap();
        assert!(request.bundle.unwrap().file.is_absolute());
        assert!(request.again.starts_with("ladylinux-refresh run '--bundle=/"), "{}", request.again);
    }
}
