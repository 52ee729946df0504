//! No byte of a key reaches a log, an error or a `Debug` output, whatever is wrong with the files.

#![expect(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "helpers of tests: a failure is the test's failure"
)]

mod kit;

use kit::{DOMAIN, Pod, anyone, shake};
use podmint::testkit::Authority;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Every way in which a part of the key may be written: each run of eight characters of its base64, and of four bytes as decimals.
fn traces_of(key: &str) -> Vec<String> {
    let base64: String = key.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(
        <rustls_pki_types::PrivatePkcs8KeyDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(key.as_bytes())
            .unwrap()
            .secret_pkcs8_der()
            .to_vec(),
    );
    // What comes first is the same in every key.
    let secret = &der.secret_pkcs8_der()[36..68];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let decimal = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let text = base64.as_bytes()[48..].windows(8).map(|run| String::from_utf8(run.to_vec()).unwrap());
    text.chain(secret.windows(4).map(hex)).chain(secret.windows(4).map(decimal)).collect()
}

#[tokio::test]
async fn no_key_byte_is_ever_shown() {
    let log = Captured::default();
    let sink = log.clone();
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || sink.clone()).init();

    let authority = Authority::new(DOMAIN);
    let (one, two) = (authority.issue("/ns/shop/sa/cart"), authority.issue("/ns/shop/sa/cart"));
    let mut shown = String::new();
    let mangled = one.key.replace("PRIVATE KEY", "EC PRIVATE KEY");
    let inside_out: String = one.key.lines().rev().map(|line| format!("{line}\n")).collect();
    let label = format!("-----BEGIN {}-----\n", one.key.lines().nth(1).unwrap());
    let flipped = {
        let mut text = one.key.clone().into_bytes();
        text[60] = if text[60] == b'A' { b'B' } else { b'A' };
        String::from_utf8(text).unwrap()
    };
    let bundles = [
        one.bundle(),
        format!("{}{}", one.key, two.chain),
        format!("{mangled}{}", one.chain),
        inside_out,
        label,
        one.key.clone(),
        one.bundle()[..one.key.len() - 40].to_owned(),
        format!("{}{}", one.key, one.bundle()),
        format!("{flipped}{}", one.chain),
        one.key.lines().skip(1).collect::<Vec<_>>().join("\n"),
        one.bundle().replace('\n', "\n\n"),
    ];
    for (number, bundle) in bundles.iter().enumerate() {
        for trust in [authority.trust(), bundle.clone()] {
            let pod = Pod::new();
            pod.volume.write(&[("bundle.pem", bundle.clone()), ("trust.pem", trust)]);
            match pod.builder().start().await {
                Ok(identity) => {
                    assert_eq!(number, 0, "bundle {number} is bad");
                    let acceptor = identity.server(anyone()).acceptor().unwrap();
                    let connector = identity.client(anyone()).connector().unwrap();
                    let ends = shake(&acceptor, &connector).await;
                    shown += &format!("{identity:?} {acceptor:?} {connector:?} {ends:?} {:?}", identity.snapshot());
                    for other in &bundles {
                        pod.volume.write(&[("bundle.pem", other.clone()), ("trust.pem", authority.trust())]);
                        shown += &format!("{:?}", identity.reload().await);
                    }
                }
                Err(error) => shown += &format!("{error} {error:?}"),
            }
        }
    }
    shown += &format!("{one:?}");
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("kept the last good credentials"), "the log was not captured:\n{logged}");
    for key in [&one.key, &two.key] {
        for trace in traces_of(key) {
            assert!(!shown.contains(&trace), "an error or Debug output shows {trace}");
            assert!(!logged.contains(&trace), "the log shows {trace}");
        }
    }
}
