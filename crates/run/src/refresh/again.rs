//! Completes commands for people to type with the command line of the run: a shorter command would do something else.

/// The command in hints, without options.
const RUN: &str = "ladylinux-refresh run";

/// Returns a hint whose command `ladylinux-refresh run [BRANCH]` has the options and the branch of `again`, the command
/// line of the refused run. A branch in the hint replaces that of the run. Other commands stay unchanged.
pub(crate) fn complete(hint: &str, again: &str) -> String {
    let Some(arguments) = again.strip_prefix(RUN).filter(|rest| rest.is_empty() || rest.starts_with(' '))
    else {
        return hint.to_owned();
    };
    if let Some(before) = hint.strip_suffix(RUN) {
        return format!("{before}{again}");
    }
    let branch = hint.strip_prefix(RUN).and_then(|rest| rest.strip_prefix(' '));
    // The path of a bundle can contain blanks. Its branch is never missing on the remote.
    let is_bundle = arguments.contains("--bundle=");
    match branch.filter(|branch| !branch.contains(' ') && !branch.starts_with('-') && !is_bundle) {
        Some(branch) => {
            let options: String = arguments
                .split(' ')
                .filter(|word| word.starts_with("--"))
                .map(|word| format!(" {word}"))
                .collect();
            format!("{RUN}{options} {branch}")
        }
        None => hint.to_owned(),
    }
}

/// Returns whether the command line of a run names a branch.
pub(crate) fn names_branch(again: &str) -> bool {
    let arguments = again.strip_prefix(RUN).unwrap_or_default();
    arguments
        .split_whitespace()
        .any(|word| !word.starts_with('-') || word.starts_with("-b") || word.starts_with("--branch"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_in_the_command_line_of_a_run_is_recognized() {
        for line in ["main", "--strict main", "-b main", "--branch=main --strict"] {
            assert!(names_branch(&format!("{RUN} {line}")), "{line}");
        }
        for line in [
            "ladylinux-refresh run",
            "ladylinux-refresh run --if-changed --strict",
            "ladylinux-refresh rollback r-1",
        ] {
            assert!(!names_branch(line), "{line}");
        }
    }

    #[test]
    fn a_command_in_a_hint_gets_the_arguments_of_the_refused_run() {
        let again = "ladylinux-refresh run --strict --no-stage feature/logni";
        assert_eq!(complete("ladylinux-refresh run", again), again);
        assert_eq!(complete("push, then: ladylinux-refresh run", again), format!("push, then: {again}"));
        assert_eq!(
            complete("ladylinux-refresh run feature/login", again),
            "ladylinux-refresh run --strict --no-stage feature/login"
        );
        for other in ["ladylinux-refresh doctor", "ladylinux-refresh rollback", "apt install git"] {
            assert_eq!(complete(other, again), other);
        }
        assert_eq!(
            complete("ladylinux-refresh run", "ladylinux-refresh rollback r-1"),
            "ladylinux-refresh run"
        );
        let bundle = &format!("{RUN} '--bundle=/a b'");
        assert_eq!(complete("ladylinux-refresh run", bundle), *bundle);
        assert_eq!(complete("ladylinux-refresh run main", bundle), "ladylinux-refresh run main");
    }
}
