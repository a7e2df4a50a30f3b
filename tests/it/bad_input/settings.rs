//! Wrong settings of the host and of a commit, and hooks that hang.

use std::fs;
use std::path::Path;

use super::{Reports, refused, typed};
use crate::host::{Host, git};

#[test]
fn errors_in_the_settings_of_the_host_are_reported_with_their_place() {
    let host = Host::running();
    let file = host.layout.host_file();
    let name = file.display().to_string();
    let wrong = |text: &str, says: &str| {
        fs::write(&file, text).unwrap();
        for command in ["run", "plan"] {
            refused(&host, &[command], 2, &[&format!("{name}, line {says}")]);
        }
    };
    wrong("branch = \n", "1, column ");
    let next = format!("  next         {} config check\n", typed(&host));
    refused(&host, &["plan"], 2, &[&next]);
    wrong(
        "branch = \"main\"\n[probe]\nsetle = \"3s\"\n",
        "3, column 1: unknown key `probe.setle`; did you mean `settle`?",
    );
    wrong("[prob]\n", "1, column 2: unknown key `prob`; did you mean `probe`?");
    wrong("keep = \"three\"\n", "1, column 8: \"three\" in the place of an integer");
    wrong("keep = -1\n", "1, column 8: -1 in the place of an integer");
    wrong("allowed_branches = \"main\"\n", "1, column 20: \"main\" in the place of a list in brackets");
    wrong("strict_order = 1\n", "1, column 16: 1 in the place of true or false");
    wrong("remote = \"x\"\n", "1, column 10: \"x\" in the place of a table");
    wrong("[python]\ninstaller = \"uv\"\n", "2, column 1: `python.installer` is gone");
    wrong("[python]\nimport_check = \"x\"\n", "2, column 16: \"x\" is none of compile, import, off");
    wrong("branch = \"../..\"\n", "1, column 10: ");
    wrong("[probe]\nsettle = \"3\"\n", "2, column 10: \"3\" is not a duration");
    wrong("[[hook]]\nname = \"x\"\nkind = \"cheque\"\ncommand = [\"true\"]\n", "3, column 8: ");
    fs::write(&file, "branch = \"\u{e9}\"\n".bytes().filter(|byte| *byte != 0xa9).collect::<Vec<u8>>())
        .unwrap();
    refused(&host, &["run"], 2, &[&name, "is not UTF-8"]);
    fs::write(&file, host.settings("").replace("git://", "git://u:p@")).unwrap();
    let printed = refused(&host, &["run"], 2, &["remote"]);
    assert!(!printed.all().contains("u:p@"), "{}", printed.all());
    fs::write(&file, host.settings("").replace("allow = [\"git\"]", "")).unwrap();
    refused(&host, &["run"], 2, &["git"]);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    refused(&host, &["run"], 2, &[&format!("cannot read {name}"), "not a regular file"]);
    fs::remove_dir(&file).unwrap();
    fs::write(&file, "").unwrap();
    refused(&host, &["run"], 3, &["in preflight: no remote is set", "[remote]"]);
}

#[test]
fn units_that_cannot_be_confined_are_refused_if_required_and_reported_otherwise() {
    let host = Host::running();
    let missing = "below --root units share the network, the processes and the limits of the caller";
    host.configure("", "[security]\nrequire = true\n");
    for command in ["run", "plan"] {
        let cause = "this host does not confine units as security.require asks for";
        let printed = refused(&host, &[command], 3, &[cause, missing, "without --root"]);
        let accept =
            format!("set `require = false` under [security] in {}", host.layout.host_file().display());
        assert!(printed.all().contains(&accept), "{}", printed.all());
    }
    let printed = host.tool(["doctor"]).prints("[confinement]").prints("confinement of units: not all of it");
    assert!(printed.all().contains(missing), "{}", printed.all());

    host.configure("", "[security]\nrequire = false\n");
    host.tool(["run"]).expect(0).prints("  confinement  not enforced; `doctor` reports what is missing\n");
    let printed = host.tool(["run", "--verbose"]).expect(0);
    let lines: Vec<&str> = printed.out.lines().filter(|line| line.contains("confinement")).collect();
    assert_eq!(lines.len(), 1, "{}", printed.all());
    assert!(lines[0].starts_with(&format!("  confinement  not enforced: {missing}; ")), "{lines:?}");
    let report = host.report();
    assert_eq!(report["confinement"]["state"], "missing");
    assert_eq!(report["confinement"]["missing"][0], missing);
    let examined = host.tool(["doctor", "--json"]);
    let examined: serde_json::Value = serde_json::from_str(&examined.out).unwrap();
    assert_eq!(examined["confinement"], report["confinement"]);
    let findings = examined["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["check"] != "confinement"), "{findings:?}");
}

#[test]
fn errors_in_the_settings_of_a_commit_are_found_while_the_old_version_serves() {
    let host = Host::running();
    let hook = "[[hook]]\nname = \"x\"\nkind = \"check\"\nstage = true\n";
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n", "0".repeat(64));
    let cases: [(&str, &str, &[&str]); 11] = [
        ("refresh.toml", "definitions = \n", &["refresh.toml, line 1, column "]),
        (
            "refresh.toml",
            "[prob]\n",
            &["refresh.toml, line 1, column 2: unknown key `prob`; did you mean `probe`?"],
        ),
        (
            "refresh.toml",
            "\n[remote]\nurl = \"https://elsewhere/x\"\n",
            &["refresh.toml, line 2, column 2: the application may not set `remote`"],
        ),
        (
            "refresh.toml",
            "[probe]\nstatus = 200\n",
            &["line 2, column 1: the application may not set `probe.status`"],
        ),
        ("refresh.toml", "definitions = [\"../x\"]\n", &["leaves the working tree"]),
        ("refresh.toml", &format!("{hook}command = []\n"), &["has no command"]),
        (
            "refresh.toml",
            &format!("{hook}command = [\"sh\", \"-c\", \"echo so says the check; exit 9\"]\n"),
            &[
                "cause        the check hook x failed",
                "exited with code 9",
                "so says the check",
                "the complete output is in",
            ],
        ),
        (
            "refresh.toml",
            &format!("{hook}command = [\"sleep\", \"600\"]\ndeadline = \"300ms\"\n"),
            &["the check hook x failed", "was ended after its deadline of 300ms"],
        ),
        ("requirements.txt", "six==1.16.0\nsix==1.15.0\n", &["six==1.1"]),
        ("requirements.txt", "-r missing.txt\n", &["missing.txt"]),
        ("weights.bin", &pointer, &["Git LFS", "weights.bin"]),
    ];
    let good = git(&host.work(), ["rev-parse", "HEAD"]);
    for (path, text, says) in cases {
        host.push(&[(path, text)]);
        let printed = refused(&host, &["run"], 3, says);
        assert!(printed.all().contains("error in staging: "), "{}", printed.all());
        if printed.all().contains("the check hook") {
            let incoming = git(&host.work(), ["rev-parse", "HEAD"]);
            assert!(
                printed.all().contains(&format!("{} on main did not pass", &incoming[..10])),
                "{}",
                printed.all()
            );
        }
        git(&host.work(), ["reset", "--quiet", "--hard", &good]);
    }
    // The report of a refusal has the same data for programs.
    let report = host.report();
    assert_eq!((report["result"].as_str(), report["exit_code"].as_i64()), (Some("refused"), Some(3)));
    assert_eq!(report["service"]["state"], "running");
    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn rw_7_1b_a_hook_that_hangs_or_floods_is_ended_and_reported() {
    let host = Host::running();
    let hook = |deadline: &str, command: &str| {
        let table = format!(
            "[[hook]]\nname = \"bad\"\nkind = \"migration\"\ndeadline = \"{deadline}\"\ncommand = [\"sh\", \"-c\", '''{command}''']\n"
        );
        host.configure("", &table);
    };
    // A hook can write only where the service can write.
    let left = host.layout.data()[0].join("left");
    for flood in [
        format!("echo $$ > {}; yes flooding", left.display()),
        format!("echo $$ > {}; while :; do head -c 9999999 /dev/zero; done", left.display()),
        format!("echo $$ > {}; sleep 600 & sleep 600", left.display()),
    ] {
        hook("500ms", &flood);
        let printed = host.tool(["run"]).expect(1);
        let printed = printed.reports(
            &host,
            &[
                "error in step 4 (prepare): the migration hook bad failed",
                "was ended after its deadline of 500ms",
            ],
        );
        assert!(
            printed.all().contains("service      stopped and fenced: nothing starts it"),
            "{}",
            printed.all()
        );
        assert!(host.fenced() && host.answer().is_none());
        let pid = fs::read_to_string(&left).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "the hook still runs");
        let log = host.runs().pop().unwrap().join("log");
        let kept = fs::metadata(&log).unwrap().len();
        assert!(kept < 32 << 20, "{kept} bytes were kept of a flood");
        assert!(printed.all().len() < 32 << 20);
    }
    // Output that floods but ends in time is not a failure.
    hook("60s", &format!("yes {} | head -c 20000000", "flooding ".repeat(25)));
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("one"));
}
