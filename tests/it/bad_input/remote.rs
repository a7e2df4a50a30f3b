//! Remotes without the branch, and wrong credentials.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::{reconfigure, refused, typed};
use crate::git::{Web, serve_web};
use crate::host::{Host, git};

#[test]
fn a_remote_that_cannot_give_the_branch_leaves_the_old_version_in_service() {
    let host = Host::running();
    git(&host.work(), ["push", "--quiet", "origin", "HEAD:refs/heads/feature/login"]);
    let missing = ["no branch feature/logni", "did you mean feature/login"];
    // A next command without all typed arguments would be another refresh.
    let file = host.beside("no file");
    let whole = format!("next         {} run --strict '--bundle={}'\n", typed(&host), file.display());
    refused(&host, &["run", "--bundle", file.to_str().unwrap(), "--strict"], 3, &[&whole]);
    let held = format!("  app/ is at   {} on main\n", &host.head()[..10]);
    let says = ["in staging: the remote has ", missing[0], missing[1], &held];
    refused(&host, &["run", "feature/logni"], 3, &says);
    let next = format!("  next         {} run --no-stage --strict feature/login\n", typed(&host));
    refused(&host, &["run", "feature/logni", "--no-stage", "--strict"], 3, &[&next]);
    assert_eq!(host.report()["branch"], "main", "what app/ holds");
    refused(&host, &["run", "--if-changed", "feature/logni"], 3, &["in preflight: ", missing[0], missing[1]]);
    let next = format!("  next         {} plan --strict feature/login\n", typed(&host));
    refused(&host, &["plan", "--strict", "feature/logni"], 3, &["in plan: ", missing[0], missing[1], &next]);
    // If no person has typed the name, a similar branch can be an older version.
    let settings = fs::read_to_string(host.layout.host_file()).unwrap();
    fs::write(host.layout.host_file(), format!("branch = \"feature/logni\"\n{settings}")).unwrap();
    let next = format!("  next         {} run --strict\n", typed(&host));
    let setting = "set `branch = \"NAME\"` in ";
    refused(&host, &["run", "--strict"], 3, &[missing[0], missing[1], setting, &next]);
    fs::write(host.layout.host_file(), settings).unwrap();

    let url = host.url();
    reconfigure(&host, &url, "git://127.0.0.1:1/app.git");
    refused(
        &host,
        &["run"],
        3,
        &["in staging: the remote git://127.0.0.1:1/app.git cannot be reached", "refused"],
    );
    reconfigure(&host, "app.git", "other.git");
    refused(&host, &["run"], 3, &["in staging: git://"]);

    let silent = serve_web(Web::Silent);
    for scheme in ["git", "http"] {
        let new = format!("{scheme}://127.0.0.1:{silent}/app.git\"\nstall = \"1s");
        reconfigure(&host, &url, &new);
        let text = fs::read_to_string(host.layout.host_file()).unwrap();
        fs::write(host.layout.host_file(), text.replace("[\"git\"]", "[\"git\", \"http\"]")).unwrap();
        refused(&host, &["run"], 3, &["in staging: the remote", "stopped sending", "remote.stall"]);
    }
}

#[test]
fn wrong_credentials_are_named_and_right_ones_work() {
    let host = Host::running();
    // "x-access-token:s3cret"
    let credentials = "eC1hY2Nlc3MtdG9rZW46czNjcmV0";
    let port = serve_web(Web::Protected { base: host.beside("srv"), credentials });
    let token = host.beside("token");
    let new = format!("http://127.0.0.1:{port}/app.git\"\ntoken_file = \"{}", token.display());
    reconfigure(&host, &host.url(), &new);
    let text = fs::read_to_string(host.layout.host_file()).unwrap();
    fs::write(host.layout.host_file(), text.replace("[\"git\"]", "[\"http\"]")).unwrap();
    refused(&host, &["run"], 3, &["in staging", "the token file", "cannot be read"]);
    fs::write(&token, "wr0ng\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&host, &["run"], 3, &["others than its owner can read", "chmod 600"]);
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let printed = refused(&host, &["run"], 3, &["refused the credentials", "remote.token_file"]);
    assert!(!printed.all().contains("wr0ng"), "{}", printed.all());
    fs::write(&token, "s3cret\n").unwrap();
    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn a_name_that_is_not_a_branch_is_deployed_or_refused_with_the_command_to_type() {
    let host = Host::running();
    let commit = host.push(&[("version.txt", "two\n")]);
    git(&host.work(), ["tag", "v1"]);
    git(&host.work(), ["push", "--quiet", "origin", "v1", "HEAD:refs/heads/feature/x"]);
    let push = ":refs/heads/NAME";
    for name in ["v1", "refs/tags/v1", "tags/v1"] {
        refused(&host, &["run", name], 3, &["is a tag", "follows a branch", "'v1^{commit}:refs/heads/NAME'"]);
    }
    for name in [&commit[..], &commit[..10]] {
        refused(&host, &["run", name], 3, &["is the ID of a commit", push]);
        refused(&host, &["plan", name], 3, &["is the ID of a commit", push]);
    }
    for (name, branch) in [("origin/main", "main"), ("refs/remotes/origin/feature/x", "feature/x")] {
        let next = format!("next         {} run {branch}\n", typed(&host));
        refused(&host, &["run", name], 3, &["type the branch alone", &next]);
    }
    for name in ["main~1", "v1^", "HEAD", "@", "main@{1}"] {
        let ran = host
            .tool(["run", name])
            .expect(2)
            .prints("git gives it another meaning")
            .prints("the latest commit of a branch");
        assert!(host.version().as_deref() == Some("one"), "{}", ran.all());
    }
    // A branch is deployed by its full name too.
    host.tool(["run", "refs/heads/main"]).expect(0);
    assert_eq!((host.head(), host.report()["branch"].as_str()), (commit, Some("main")));
}
