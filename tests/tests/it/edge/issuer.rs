//! An identity provider: it publishes keys on loopback, badly where it is told to, and signs
//! tokens, bad ones too.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    serve::Listener,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64},
};
use chrono::Utc;
use ring::{
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use umbel_api::{JwksSettings, JwtSettings};
use umbel_tests::services::Identity;

pub const ISSUER: &str = "https://id.example";
pub const AUDIENCE: &str = "umbel";

/// How it answers who asks for its keys.
#[derive(Debug, Clone)]
pub enum Answer {
    Keys(Vec<Value>),
    /// Never.
    Silence,
    /// A body without end.
    Endless,
    /// Good keys, after more than anybody would read.
    Huge(Vec<Value>),
    Status(u16),
    Redirect(String),
}

/// The provider; it is gone when this is dropped.
pub struct Issuer {
    pub url: String,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Issuer {
    pub async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve("http", listener, answer)
    }

    /// By https, as whom the identity says.
    pub async fn start_with_tls(answer: Answer, identity: &Identity) -> Self {
        Self::serve("https", Encrypted::listen(identity).await, answer)
    }

    fn serve(scheme: &str, listener: impl Listener<Addr = SocketAddr>, answer: Answer) -> Self {
        let url = format!("{scheme}://{}/keys", listener.local_addr().unwrap());
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let state = (answer.clone(), asked.clone());
        let router = Router::new().fallback(publish).with_state(state);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, answer, asked, server }
    }

    pub fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    /// Believes its keys, for everybody to read.
    pub fn settings(&self) -> JwtSettings {
        let jwks = JwksSettings::new(self.url.parse().unwrap());
        JwtSettings::published(jwks, ISSUER, AUDIENCE)
    }

    /// The same, and asks for keys as often as it is of use.
    pub fn impatient(&self) -> JwtSettings {
        let mut settings = self.settings();
        settings.jwks.as_mut().unwrap().refresh_apart = std::time::Duration::ZERO;
        settings
    }
}

/// Accepts by TLS, with HTTP/2 for those who speak it.
struct Encrypted {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl Encrypted {
    async fn listen(identity: &Identity) -> Self {
        let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes());
        let chain = chain.collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { tcp, tls: TlsAcceptor::from(Arc::new(config)) }
    }
}

impl Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, addr) = self.tcp.accept().await.unwrap();
            // Who does not trust it goes away.
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, addr);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn publish(
    State((answer, asked)): State<(Arc<Mutex<Answer>>, Arc<AtomicUsize>)>,
) -> Response {
    asked.fetch_add(1, SeqCst);
    let answer = answer.lock().unwrap().clone();
    match answer {
        Answer::Keys(keys) => Json(json!({ "keys": keys })).into_response(),
        Answer::Silence => std::future::pending().await,
        Answer::Endless => {
            let spaces =
                std::iter::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1024])));
            Body::from_stream(futures::stream::iter(spaces)).into_response()
        }
        Answer::Huge(keys) => {
            let text = format!("{}{}", " ".repeat(300 * 1024), json!({ "keys": keys }));
            text.into_response()
        }
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::Redirect(to) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
    }
}

/// A private key, with the id of its public half.
pub struct Signer {
    pub kid: &'static str,
    key: Private,
}

enum Private {
    Ec(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    /// A new key of P-256.
    pub fn ec(kid: &'static str) -> Self {
        let (algorithm, chance) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &chance).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &chance).unwrap();
        Self { kid, key: Private::Ec(Box::new(key)) }
    }

    /// The one key of RSA, made for these tests.
    pub fn rsa(kid: &'static str) -> Self {
        let key = STANDARD.decode(include_str!("rsa-of-tests.b64").trim()).unwrap();
        Self { kid, key: Private::Rsa(Box::new(RsaKeyPair::from_pkcs8(&key).unwrap())) }
    }

    pub fn algorithm(&self) -> &'static str {
        match self.key {
            Private::Ec(_) => "ES256",
            Private::Rsa(_) => "RS256",
        }
    }

    /// The public half, as it is published.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Private::Ec(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": BASE64.encode(x), "y": BASE64.encode(y)})
            }
            Private::Rsa(key) => {
                let public: rsa::PublicKeyComponents<Vec<u8>> = key.public().into();
                json!({"kty": "RSA", "n": BASE64.encode(public.n), "e": BASE64.encode(public.e)})
            }
        };
        (jwk["kid"], jwk["alg"], jwk["use"]) =
            (json!(self.kid), json!(self.algorithm()), json!("sig"));
        jwk
    }

    /// A token of any header and claims, signed as this key signs.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let text = unsigned(header, claims);
        let signature = self.signature(text.as_bytes());
        format!("{text}.{}", BASE64.encode(signature))
    }

    pub fn signature(&self, text: &[u8]) -> Vec<u8> {
        let chance = SystemRandom::new();
        match &self.key {
            Private::Ec(key) => key.sign(&chance, text).unwrap().as_ref().to_vec(),
            Private::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &chance, text, &mut signature).unwrap();
                signature
            }
        }
    }

    pub fn header(&self) -> Value {
        json!({"alg": self.algorithm(), "kid": self.kid, "typ": "JWT"})
    }

    /// A good token of somebody who may read.
    pub fn token(&self) -> String {
        self.sign(&self.header(), &claims())
    }
}

pub fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()))
}

/// Good claims, an hour from their end.
pub fn claims() -> Value {
    json!({"sub": "ann", "exp": Utc::now().timestamp() + 3600, "iss": ISSUER, "aud": AUDIENCE,
        "scope": "tasks:read"})
}
