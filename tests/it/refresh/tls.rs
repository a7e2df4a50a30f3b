//! A service with TLS is checked over TLS. A fault of its certificate is named before anything is stopped.

use std::path::Path;

use crate::host::{Host, SERVER};
use crate::refresh::help::listens;
use crate::tls::{Pair, expired, self_signed};

/// The service of all tests, with TLS.
fn server(pair: &Pair) -> String {
    let context = format!(
        "import ssl\ncontext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\ncontext.load_cert_chain({:?}, {:?})\n\
         def answer(connection):\n    connection = context.wrap_socket(connection, server_side=True)\n",
        pair.certificate.display(),
        pair.key.display()
    );
    SERVER.replace("def answer(connection):\n", &context)
}

/// Deploys the service with another certificate while it is stopped, without a check of its certificate.
fn deploy(host: &Host, pair: &Pair) {
    host.tool(["service", "stop"]).expect(0);
    host.push(&[("server.py", &server(pair))]);
    probe(host, "https", "");
    host.tool(["run"]).expect(0).prints("HTTP 200");
}

/// Sets the health check: its scheme, and more lines.
fn probe(host: &Host, scheme: &str, lines: &str) {
    host.configure("", &format!("url = \"{scheme}://127.0.0.1:{}/\"\n{lines}", host.port));
}

fn authority(file: &Path) -> String {
    format!("ca_file = \"{}\"\n", file.display())
}

#[test]
fn rw_5_5_rw_7_1b_a_service_with_tls_is_checked_over_tls_and_a_refused_certificate_gets_its_reason() {
    let host = Host::running();
    let [own, other] = ["own", "other"].map(|name| self_signed(&host.beside(name), "lady.example"));
    let refused = |words: &str| {
        let ran = host.tool(["run"]).expect(3).prints(words);
        assert!(listens(&host) && !host.fenced(), "{}", ran.all());
    };
    let setting = |scheme: &str| format!("set `url = \"{scheme}://127.0.0.1:{}/\"`", host.port);
    // A service without TLS, and a health check with it.
    probe(&host, "https", "");
    refused(&setting("http"));
    deploy(&host, &own);
    host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
    // A service with TLS, and a health check without it.
    probe(&host, "http", "");
    refused(&setting("https"));
    probe(&host, "http", &authority(&own.certificate));
    refused("does not use TLS");

    probe(&host, "https", &authority(&other.certificate));
    refused("its certificate has an issuer that probe.ca_file does not hold");
    probe(&host, "https", &authority(&own.certificate));
    host.tool(["run"]).expect(0);
    let named = |name: &str| format!("{}headers = {{ Host = \"{name}\" }}\n", authority(&own.certificate));
    probe(&host, "https", &named("lady.example:443"));
    host.tool(["run"]).expect(0);
    probe(&host, "https", &named("other.example"));
    refused("its certificate is not for the name other.example");
    probe(&host, "https", &authority(&own.key));
    refused("probe.ca_file has no certificate");
    probe(&host, "https", &authority(Path::new("/nonexistent")));
    refused("probe.ca_file: /nonexistent");
    host.configure("", "url = \"https://192.0.2.7/\"\n");
    refused("192.0.2.7 is not an address of this machine");

    let old = expired(&host.beside("old"));
    deploy(&host, &old);
    probe(&host, "https", &authority(&old.certificate));
    refused("its certificate has expired");
}
