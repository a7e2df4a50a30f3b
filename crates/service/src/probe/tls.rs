//! TLS for the probe: the connection, the check of its certificate, and the messages about problems. It parses data of
//! the service, so it works only in the unit of [`super::asker`].

use std::fmt;
use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{AlertDescription, CertificateError, DigitallySignedStruct, SignatureScheme};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde::{Deserialize, Serialize};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use refresh_system::error::{Context as _, Failure, Outcome};

/// The TLS settings of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The name that the certificate must be for: that of the URL, or of the header field `Host`.
    pub name: String,
    /// The text of `probe.ca_file`; without it the certificate is not checked.
    pub authorities: Option<String>,
}

/// Uses TLS on the connection that the connector before it has made.
#[derive(Debug)]
pub(super) struct TlsConnector {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl TlsConnector {
    /// Creates the connector.
    ///
    /// # Errors
    /// The name is not valid for a certificate, or the authorities are not certificates.
    pub(super) fn new(tls: &Tls) -> Outcome<Self> {
        let name = ServerName::try_from(tls.name.clone())
            .context(|| format!("{:?} is not a name that a certificate can have", tls.name))?;
        let verifier = Arc::new(Verifier::new(tls.authorities.as_deref())?);
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .context(|| "TLS cannot be set up".to_owned())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self { name, config: Arc::new(config) })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl<T: Transport> Connector<T> for TlsConnector {
    type Out = TlsTransport<T>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        connected: Option<T>,
    ) -> Result<Option<TlsTransport<T>>, ureq::Error> {
        let Some(connected) = connected else { return Ok(None) };
        let mut stream = TransportAdapter::new(connected, Arc::clone(&details.current_time));
        stream.set_timeout(details.timeout);
        let mut connection =
            ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(Error::other)?;
        connection.complete_io(&mut stream)?;
        let config = &details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(TlsTransport { stream: StreamOwned::new(connection, stream), buffers }))
    }
}

/// A connection with TLS.
pub(super) struct TlsTransport<T: Transport> {
    stream: StreamOwned<ClientConnection, TransportAdapter<T>>,
    buffers: LazyBuffers,
}

impl<T: Transport> fmt::Debug for TlsTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport").finish_non_exhaustive()
    }
}

impl<T: Transport> Transport for TlsTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        Ok(self.stream.write_all(output).and_then(|()| self.stream.flush())?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = match self.stream.read(self.buffers.input_append_buf()) {
            // Many servers close without the closing message of TLS. A truncated answer is detected by its length.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
            other => other?,
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        // Each request has its own connection.
        false
    }
}

/// Checks a certificate against the authorities, or not at all.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates of the authorities.
    known: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(authorities: Option<&str>) -> Outcome<Self> {
        let provider = provider();
        let Some(text) = authorities else { return Ok(Self { chain: None, known: Vec::new(), provider }) };
        let none = || Failure::new("probe.ca_file has no certificate that can be read (PEM)");
        let known: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| none().because(error))?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(known.iter().cloned());
        if roots.is_empty() {
            return Err(none());
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .context(|| "the certificates of probe.ca_file cannot be used".to_owned())?;
        Ok(Self { chain: Some(chain), known, provider })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // `openssl req -x509` makes an authority of each certificate that signs itself, and the library does not
            // accept an authority as a server. Its dates are checked before that.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.known.contains(certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            // The library has no type for its own error.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(error)))
                if error.to_string().contains("CaUsedAsEndEntity") =>
            {
                Err(CertificateError::UnknownIssuer.into())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verify =
            |chain: &Arc<WebPkiServerVerifier>| chain.verify_tls12_signature(message, certificate, signed);
        self.chain.as_ref().map_or_else(|| Ok(HandshakeSignatureValid::assertion()), verify)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verify =
            |chain: &Arc<WebPkiServerVerifier>| chain.verify_tls13_signature(message, certificate, signed);
        self.chain.as_ref().map_or_else(|| Ok(HandshakeSignatureValid::assertion()), verify)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The beginning of the message about a certificate that is not accepted.
pub(super) const CERTIFICATE: &str = "its certificate ";
/// The message if the service answers without TLS.
pub(super) const PLAIN: &str = "it answers without TLS";

/// Returns the message for an error of TLS; `None` for another error.
pub(super) fn in_words(error: &Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(error) => format!("{CERTIFICATE}{}", certificate_problem(error)),
        rustls::Error::InvalidMessage(_) => PLAIN.to_owned(),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it requires a certificate of its clients, which the health check does not have".to_owned()
        }
        other => format!("TLS fails: {other}"),
    })
}

fn certificate_problem(error: &CertificateError) -> String {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    match error {
        Expired | ExpiredContext { .. } => "has expired".to_owned(),
        NotValidYet | NotValidYetContext { .. } => {
            "is not valid yet, by the clock of this machine".to_owned()
        }
        UnknownIssuer => "has an issuer that probe.ca_file does not hold".to_owned(),
        NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            if presented.is_empty() {
                format!("is not for the name {expected}: it has no names (subjectAltName)")
            } else {
                format!("is not for the name {expected}, but for {}", presented.join(", "))
            }
        }
        NotValidForName => "is for another name".to_owned(),
        BadSignature => {
            "has a signature that does not count: the key is too short, or another one signed it".to_owned()
        }
        other => format!("does not count: {other}"),
    }
}
