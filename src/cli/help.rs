//! The texts of `--help` that are not beside their commands: groups, exit codes, examples.

use refresh_installation::installation::FOR_ROOT;

/// The page of `--help`. The list of commands is [`GROUPS`], since clap has no groups of commands.
pub(super) const TEMPLATE: &str = "\
{about}

{usage-heading} {usage}

{before-help}Options:
{options}{after-help}";

/// The commands by purpose. A test compares them with the command line.
pub(super) const GROUPS: &str = "\
Everyday:
  run          Refresh now: stop, update, restart, check health
  plan         Show what the next run would change
  status       Show the deployed version and the state of the service
  history      List past runs, or show one
  rollback     Return to an earlier good version

Runs in progress:
  wait         Follow a run until it ends
  cancel       Cancel a run in progress

Problems:
  doctor       Find problems and print repairs (read-only)
  verify       Verify the models and the virtual environment
  stash        Show or restore local changes that refreshes saved
  unfence      Allow the service to start after a failed refresh
  service      Start, stop, restart or inspect the service

Setup and maintenance:
  init         Set up an installation, or adopt an existing one
  config       Show or check the settings
  env          List or remove virtual environments
  lock         Print or upgrade the lockfile of the Python packages
  bundle       Create or inspect a file for offline refreshes
  completions  Print the completions of a shell
  help         Print the help of a command";

/// Returns the end of the page: exit codes, and the commands that need root.
pub(super) fn after_help() -> String {
    let lines = FOR_ROOT.chunks(5).map(|commands| format!("  {}", commands.join(", ")));
    format!(
        "{EXIT_CODES}\n\nThese commands need root, except with --root:\n{}",
        lines.collect::<Vec<_>>().join(",\n")
    )
}

const EXIT_CODES: &str = "\
Exit codes:
    0  refreshed, or already current
    1  a step failed: the service is stopped and fenced
    2  wrong command line or configuration
    3  refused: nothing has changed
    4  another run is in progress
    5  a check found problems
   70  internal error
128+n  ended by signal n";

pub(super) const RUN: &str = "\
Examples:
  ladylinux-refresh run
  ladylinux-refresh run --if-changed --wait 5m";

pub(super) const PLAN: &str = "\
Examples:
  ladylinux-refresh plan
  ladylinux-refresh plan feature/login --exit-code";

pub(super) const STATUS: &str = "\
Examples:
  ladylinux-refresh status
  ladylinux-refresh status --json";

pub(super) const HISTORY: &str = "\
Examples:
  ladylinux-refresh history
  ladylinux-refresh history latest";

pub(super) const ROLLBACK: &str = "\
Examples:
  ladylinux-refresh rollback --dry-run
  ladylinux-refresh rollback -2";

pub(super) const WAIT: &str = "\
Examples:
  ladylinux-refresh wait
  ladylinux-refresh wait latest --json";

pub(super) const CANCEL: &str = "\
Examples:
  ladylinux-refresh cancel
  ladylinux-refresh cancel latest";

pub(super) const DOCTOR: &str = "\
Examples:
  ladylinux-refresh doctor
  ladylinux-refresh doctor --json";

pub(super) const VERIFY: &str = "\
Examples:
  ladylinux-refresh verify models
  ladylinux-refresh verify all";

pub(super) const STASH: &str = "\
Examples:
  ladylinux-refresh stash list
  ladylinux-refresh stash restore latest";

pub(super) const UNFENCE: &str = "\
The fence protects against a half-updated application. `run` and `rollback`
remove it when they succeed; `unfence` removes it without a refresh.

Examples:
  ladylinux-refresh unfence
  ladylinux-refresh unfence --wait 5m";

pub(super) const SERVICE: &str = "\
Examples:
  ladylinux-refresh service restart
  ladylinux-refresh service logs -f -n 200";

pub(super) const INIT: &str = "\
Examples:
  ladylinux-refresh init --repo https://example.org/you/ladylinux.git --dry-run
  ladylinux-refresh init --undo --dry-run";

pub(super) const CONFIG: &str = "\
Examples:
  ladylinux-refresh config show --origin
  ladylinux-refresh config check refresh.toml --application";

pub(super) const ENV: &str = "\
Examples:
  ladylinux-refresh env list
  ladylinux-refresh env prune --dry-run";

pub(super) const LOCK: &str = "\
Examples:
  ladylinux-refresh lock
  ladylinux-refresh lock --format requirements";

pub(super) const BUNDLE: &str = "\
Examples:
  ladylinux-refresh bundle create --output app.bundle
  ladylinux-refresh bundle show app.bundle";

pub(super) const COMPLETIONS: &str = "\
Examples:
  ladylinux-refresh completions bash
  ladylinux-refresh completions zsh";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_groups_list_each_command_with_its_own_text() {
        let command = Cli::command();
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        let mut expected: Vec<String> = shown
            .map(|command| format!("  {:<12} {}", command.get_name(), command.get_about().unwrap()))
            .collect();
        expected.push(format!("  {:<12} {}", "help", "Print the help of a command"));
        let mut listed: Vec<&str> = GROUPS.lines().filter(|line| line.starts_with(' ')).collect();
        expected.sort();
        listed.sort_unstable();
        assert_eq!(listed, expected);
    }

    #[test]
    fn each_command_has_two_examples_and_each_line_fits_80_columns() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let text = command.get_after_help().unwrap().to_string();
            let examples = text.lines().filter(|line| line.starts_with("  ladylinux-refresh ")).count();
            assert_eq!(examples, 2, "{}", command.get_name());
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
    }
}
