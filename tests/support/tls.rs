//! Certificates for services with TLS, made by openssl.
#![expect(clippy::disallowed_methods, reason = "tests lay out files and start programs")]
#![expect(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A key and its certificate.
pub(crate) struct Pair {
    pub(crate) key: PathBuf,
    pub(crate) certificate: PathBuf,
}

/// A self-signed certificate, made by openssl as people do it, for a name and 127.0.0.1.
pub(crate) fn self_signed(directory: &Path, name: &str) -> Pair {
    fs::create_dir(directory).unwrap();
    let names = format!("subjectAltName=DNS:{name},IP:127.0.0.1");
    let subject = format!("/CN={name}");
    let words = ["req", "-x509", "-days", "2", "-subj", &subject, "-addext", &names, "-out", "cert.pem"];
    openssl(directory, &[&words[..], &NEW].concat());
    pair(directory)
}

/// A self-signed certificate that was valid in 2020 only.
pub(crate) fn expired(directory: &Path) -> Pair {
    fs::create_dir(directory).unwrap();
    let settings = "[ca]\ndefault_ca=d\n[d]\nnew_certs_dir=.\ndatabase=index\nserial=serial\ndefault_md=sha256\npolicy=p\n\
                    x509_extensions=x\n[p]\ncommonName=supplied\n[x]\nsubjectAltName=IP:127.0.0.1\n";
    for (file, text) in [("ca.cnf", settings), ("index", ""), ("serial", "01\n")] {
        fs::write(directory.join(file), text).unwrap();
    }
    openssl(directory, &[&["req", "-subj", "/CN=old", "-out", "request.pem"][..], &NEW].concat());
    let dates = ["-startdate", "20200101000000Z", "-enddate", "20210101000000Z"];
    let words = [
        "ca",
        "-batch",
        "-config",
        "ca.cnf",
        "-selfsign",
        "-keyfile",
        "key.pem",
        "-in",
        "request.pem",
        "-notext",
    ];
    openssl(directory, &[&words[..], &dates, &["-out", "cert.pem"]].concat());
    pair(directory)
}

const NEW: [&str; 7] =
    ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem"];

fn pair(directory: &Path) -> Pair {
    Pair { key: directory.join("key.pem"), certificate: directory.join("cert.pem") }
}

fn openssl(directory: &Path, words: &[&str]) {
    let output = Command::new("openssl").args(words).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
