//! The machine that provides source and packages for the others: a Git repository by HTTPS with a token and by ssh with
//! a key, and a package index, with a separate certificate authority.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::person::git;
use super::{Machine, Network, Ran, must, until};

/// Its name for the other machines.
pub const NAME: &str = "source";

const UNIT: &str =
    "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\nExecStart=/usr/bin/python3 -u /srv/source.py\n";

/// How a machine reaches the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By HTTPS, with a token.
    Https,
    /// By ssh, with a key.
    Ssh,
}

/// The server, with the directory that people push from.
#[derive(Debug)]
pub struct Server {
    pub machine: Machine,
    /// On this host; in the machine's own directory on it.
    work: PathBuf,
    keys: PathBuf,
    token: String,
}

impl Server {
    /// Boots it, with an empty repository.
    pub fn boot(network: &Network) -> Self {
        let machine = Machine::boot_on(network, NAME);
        let keys = machine.beside("keys");
        let work = machine.beside("work");
        fs::create_dir(&keys).unwrap();
        let token = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned();
        let server = Self { machine, work, keys, token };
        server.make_keys();
        server.set_up();
        git(&server.keys, ["init", "--quiet", "--initial-branch=main", server.work.to_str().unwrap()]);
        server
    }

    /// The address of the repository, and that of the package index.
    pub fn url(how: How) -> String {
        match how {
            How::Https => format!("https://{NAME}/git/app.git"),
            How::Ssh => format!("ssh://git@{NAME}/srv/git/app.git"),
        }
    }

    /// The address of the package index.
    pub fn index_url() -> String {
        format!("https://{NAME}/simple")
    }

    /// The token that opens the repository.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The directory that people push from.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Commits files (an empty text removes one) on the current branch and pushes. Returns the commit.
    #[track_caller]
    pub fn push(&self, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            let path = self.work.join(path);
            if text.is_empty() {
                let _ = fs::remove_file(&path);
            } else {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, text).unwrap();
            }
        }
        git(&self.work, ["add", "--all"]);
        git(&self.work, ["commit", "--quiet", "--allow-empty", "--message", "A change"]);
        let repository = self.machine.path("/srv/git/app.git");
        git(&self.work, ["push", "--quiet", "--force", repository.to_str().unwrap(), "HEAD"]);
        git(&self.work, ["rev-parse", "HEAD"])
    }

    /// Pushes a version of the demo's application: 1 is the first, 4 has a broken migration, 5 is repaired.
    #[track_caller]
    pub fn push_demo(&self, step: usize) -> String {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
        let directory = if step == 1 {
            demo.join("app")
        } else {
            let steps = fs::read_dir(demo.join("steps")).unwrap().map(|entry| entry.unwrap());
            let begins = format!("{step}-");
            let mut named = steps.filter(|entry| entry.file_name().to_str().unwrap().starts_with(&begins));
            named.next().unwrap_or_else(|| panic!("the demo has no step {step}")).path()
        };
        let mut copy = Command::new("cp");
        copy.args(["--recursive", "--no-target-directory"]).arg(&directory).arg(&self.work);
        assert!(copy.status().unwrap().success());
        self.push(&[])
    }

    /// The commit that was pushed last.
    pub fn head(&self) -> String {
        git(&self.work, ["rev-parse", "HEAD"])
    }

    /// Makes another branch, or goes back to one, in the directory that people push from.
    pub fn switch(&self, branch: &str) {
        git(&self.work, ["checkout", "--quiet", "-B", branch]);
    }

    /// Makes a machine trust this server and gives it the secrets: certificates, token, key, name in `known_hosts`.
    #[track_caller]
    pub fn introduce(&self, machine: &Machine) {
        // The same as update-ca-certificates, in a twentieth of its time.
        machine.copy_in(&self.keys.join("ca.crt"), "/usr/local/share/ca-certificates/lab.crt", 0o644);
        let trust = "cd /etc/ssl/certs && cat /usr/local/share/ca-certificates/lab.crt >>ca-certificates.crt && \
                     ln -sf /usr/local/share/ca-certificates/lab.crt \
                       \"$(openssl x509 -hash -noout -in /usr/local/share/ca-certificates/lab.crt).0\"";
        machine.exec(trust).expect(0);
        machine.write_mode("/etc/ladylinux/token", &format!("{}\n", self.token), 0o600);
        machine.copy_in(&self.keys.join("client"), "/etc/ladylinux/ssh_key", 0o600);
        let host_key = fs::read_to_string(self.keys.join("host.pub")).unwrap();
        machine.write("/etc/ladylinux/known_hosts", &format!("{NAME} {host_key}"));
    }

    /// Introduces the server and writes the host's settings: `more` contains further tables for their end.
    #[track_caller]
    pub fn configure(&self, machine: &Machine, how: How, more: &str) {
        self.introduce(machine);
        machine.write("/etc/ladylinux/refresh.toml", &Self::settings(how, "", more));
    }

    /// The host's settings: lines for the top, and tables for the end.
    pub fn settings(how: How, top: &str, tables: &str) -> String {
        let secrets = match how {
            How::Https => "token_file = \"/etc/ladylinux/token\"",
            How::Ssh => "ssh_key = \"/etc/ladylinux/ssh_key\"\nknown_hosts = \"/etc/ladylinux/known_hosts\"",
        };
        let (url, index) = (Self::url(how), Self::index_url());
        format!("{top}\n[remote]\nurl = \"{url}\"\n{secrets}\n[python]\nindex_url = \"{index}\"\n{tables}")
    }

    /// Every request so far: method, path, status; or `HELD` if the answer waits.
    pub fn requests(&self) -> Vec<String> {
        let log = self.machine.read("/run/source/log").unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// From now on holds the answer to every path that contains `part` after this number of bytes.
    pub fn hold(&self, part: &str, bytes: u64) {
        self.machine.write("/run/source/hold", &format!("{part} {bytes}\n"));
    }

    /// Waits until an answer is held.
    #[track_caller]
    pub fn wait_until_held(&self) {
        until("an answer that is held", || {
            self.requests().iter().any(|line| line.ends_with("HELD")).then_some(())
        });
    }

    /// Releases all held answers.
    pub fn release(&self) {
        self.machine.exec("rm -f /run/source/hold").expect(0);
    }

    /// Ends the HTTPS server, or starts it again.
    pub fn https(&self, verb: &str) -> Ran {
        self.machine.exec(&format!("systemctl {verb} source"))
    }

    /// A certificate authority, a certificate, a host key and a client's key.
    fn make_keys(&self) {
        let key = |name: &str| self.keys.join(name).to_str().unwrap().to_owned();
        let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        let script = format!(
            "cd '{}' && \
             openssl req -x509 {new} -keyout ca.key -out ca.crt -days 3650 -subj '/CN=lab' && \
             openssl req {new} -keyout tls.key -out tls.csr -subj '/CN={NAME}' && \
             echo 'subjectAltName=DNS:{NAME}' >tls.ext && \
             openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile tls.ext \
               -out tls.crt",
            self.keys.display()
        );
        must("/bin/sh", ["-c", &script]);
        for name in ["host", "client"] {
            must("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", &key(name)]);
        }
    }

    fn set_up(&self) {
        let machine = &self.machine;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/source.py");
        machine.copy_in(&script, "/srv/source.py", 0o644);
        machine.copy_in(&self.keys.join("tls.crt"), "/srv/tls.crt", 0o644);
        machine.copy_in(&self.keys.join("tls.key"), "/srv/tls.key", 0o600);
        machine.write_mode("/srv/token", &self.token, 0o600);
        machine.write("/etc/systemd/system/source.service", UNIT);
        machine.copy_in(&self.keys.join("host"), "/etc/ssh/ssh_host_ed25519_key", 0o600);
        machine.copy_in(&self.keys.join("host.pub"), "/etc/ssh/ssh_host_ed25519_key.pub", 0o644);
        machine.write("/etc/ssh/sshd_config.d/keys.conf", "PasswordAuthentication no\n");
        machine.copy_in(&self.keys.join("client.pub"), "/srv/authorized_keys", 0o644);
        // Root pushes to the repository from outside; nevertheless the users who serve it may read it.
        machine
            .write("/etc/gitconfig", "[safe]\n\tdirectory = *\n[uploadpack]\n\tallowAnySHA1InWant = true\n");
        let line = "set -e
            useradd --create-home --shell /usr/bin/git-shell git
            install -D -o git -m 600 /srv/authorized_keys /home/git/.ssh/authorized_keys
            chown git /home/git/.ssh
            git init --quiet --bare --initial-branch=main /srv/git/app.git
            systemctl daemon-reload
            systemctl start source ssh";
        machine.exec(line).expect(0);
    }
}
