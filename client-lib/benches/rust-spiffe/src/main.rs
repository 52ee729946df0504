//! Handshakes of spiffe-rustls, the way rust-spiffe does TLS: `rust-spiffe-handshakes DIR ID ROUNDS` prints the CPU time of one, both sides, in
//! microseconds. `DIR` has `key.pem`, `chain.pem` and `trust.pem`. They come by a Workload API of one answer on a socket, for rust-spiffe reads no
//! files. Not part of the workspace: see Cargo.toml.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use spiffe::{X509Source, X509SourceBuilder};
use tokio::net::UnixListener;
use tokio_stream::{StreamExt as _, wrappers::UnixListenerStream};
use tonic::{
    Request, Response, Status,
    codegen::{BoxFuture, Service},
    server::{Grpc, NamedService, ServerStreamingService},
};
use tonic_prost::ProstCodec;

type Stop<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Stop<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, id, rounds] = words.as_slice() else {
        return Err("usage: rust-spiffe-handshakes DIR ID ROUNDS".into());
    };
    let (server, client, _runtime) = configs(Path::new(folder), id)?;
    let rounds: u32 = rounds.parse()?;
    for _ in 0..rounds / 10 {
        shake(&server, &client)?;
    }
    let before = cpu();
    for _ in 0..rounds {
        shake(&server, &client)?;
    }
    println!("{:.1}", (cpu() - before).as_secs_f64() * 1e6 / f64::from(rounds));
    Ok(())
}

type Configs = (Arc<ServerConfig>, Arc<ClientConfig>, tokio::runtime::Runtime);

/// And the runtime that they follow their source on.
fn configs(folder: &Path, id: &str) -> Stop<Configs> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let answer = Answer::read(folder, id)?;
    let (server, client) = runtime.block_on(async {
        let scratch = tempfile::tempdir()?;
        let socket = scratch.path().join("api.sock");
        let listener = UnixListenerStream::new(UnixListener::bind(&socket)?);
        tokio::spawn(
            tonic::transport::Server::builder().add_service(WorkloadApi(answer)).serve_with_incoming(listener),
        );
        let source = async || -> Stop<X509Source> {
            Ok(X509SourceBuilder::new().endpoint(format!("unix:{}", socket.display())).build().await?)
        };
        let server = spiffe_rustls::mtls_server(source().await?).build()?;
        let client = spiffe_rustls::mtls_client(source().await?).build()?;
        Stop::Ok((server, client))
    })?;
    Ok((Arc::new(server), Arc::new(client), runtime))
}

fn shake(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Stop<()> {
    let mut client = ClientConnection::new(Arc::clone(client), ServerName::try_from("till.test")?)?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire)?;
        }
        feed(&mut server, &wire)?;
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire)?;
        }
        feed(&mut client, &wire)?;
    }
    Ok(())
}

fn feed<T>(connection: &mut rustls::ConnectionCommon<T>, mut wire: &[u8]) -> Stop<()> {
    while !wire.is_empty() {
        connection.read_tls(&mut wire)?;
        connection.process_new_packets()?;
    }
    Ok(())
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// `X509SVIDResponse` of the SPIFFE Workload API, as far as it is filled.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Svid>,
}

/// `X509SVID` of the same, in DER.
#[derive(Clone, PartialEq, prost::Message)]
struct Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
}

impl Answer {
    fn read(folder: &Path, id: &str) -> Stop<Self> {
        let certificates = |file: &str| -> Stop<Vec<u8>> {
            let list: Vec<CertificateDer<'_>> =
                CertificateDer::pem_file_iter(folder.join(file))?.collect::<Result<_, _>>()?;
            Ok(list.iter().flat_map(|certificate| certificate.to_vec()).collect())
        };
        let svid = Svid {
            spiffe_id: id.to_owned(),
            x509_svid: certificates("chain.pem")?,
            x509_svid_key: PrivateKeyDer::from_pem_file(folder.join("key.pem"))?.secret_der().to_vec(),
            bundle: certificates("trust.pem")?,
        };
        Ok(Self { svids: vec![svid] })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Question {}

/// Tells the same to everybody, and then nothing more.
#[derive(Clone)]
struct WorkloadApi(Answer);

impl NamedService for WorkloadApi {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

type Answers = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<Answer, Status>> + Send>>;

impl ServerStreamingService<Question> for WorkloadApi {
    type Response = Answer;
    type ResponseStream = Answers;
    type Future = BoxFuture<Response<Answers>, Status>;

    fn call(&mut self, _: Request<Question>) -> Self::Future {
        let answers = tokio_stream::once(Ok(self.0.clone())).chain(tokio_stream::pending());
        Box::pin(async move { Ok(Response::new(Box::pin(answers) as Answers)) })
    }
}

impl Service<http::Request<tonic::body::Body>> for WorkloadApi {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Answer, Question>::default());
            match request.uri().path() {
                "/SpiffeWorkloadAPI/FetchX509SVID" => Ok(grpc.server_streaming(service, request).await),
                path => Ok(Status::unimplemented(path.to_owned()).into_http()),
            }
        })
    }
}
