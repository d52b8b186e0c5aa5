//! Sends append messages from one process to another, over QUIC as brokers do, or over TLS on TCP,
//! and prints megabytes per second and the processor time of each side. Or sends heartbeats beside
//! requests that fill the bulk lane in both directions, and prints the time until their answers.
//!
//! ```sh
//! cargo run --release -p ropewalk-peer --example throughput -- quic 1048576 5
//! cargo run --release -p ropewalk-peer --example throughput -- tls 65536 5
//! cargo run --release -p ropewalk-peer --example throughput -- heartbeats 1048576 5
//! ```
//!
//! The arguments are the transport, the bytes of a message or a request, and the seconds. Both transports use TLS
//! 1.3 with certificates on both sides, and a runtime of two threads on each side. With QUIC the
//! messages take the append lane of this crate, in the streams of twelve shards. With TLS they
//! follow each other on one connection, each after its length, as Kafka's replication does.

use std::collections::BTreeMap;
use std::env::args;
use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use ropewalk_peer::inbox::{Connected, Delivery};
use ropewalk_peer::{CertificateFiles, Class, Inbox, Lane, Options, PeerAddress, Peers, Sent};
use ropewalk_shard::engine::{Entry, EntryId, EntryKind};
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::{BrokerId, HistoryId, Payload, ShardId};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Failure = Box<dyn Error + Send + Sync>;

const CLUSTER: &str = "c1";
const SENDER: i32 = 1;
const RECEIVER: i32 = 2;
const SHARDS: u32 = 12;
/// Threads of the runtime of each side, as in a broker.
const THREADS: usize = 2;
/// Requests of the bulk lane under way: as many as a broker answers at once, within its bound.
const REQUESTS: usize = 5;
/// Ticks of `/proc/PID/stat` in a second.
const TICKS: f64 = 100.0;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["receive", transport, directory] => receive(transport, Path::new(directory)),
        ["send", transport, directory, ports, bytes, seconds] => {
            let ports: Vec<u16> = ports.split(',').map(str::parse).collect::<Result<_, _>>()?;
            let seconds = Duration::from_secs_f64(seconds.parse()?);
            send(transport, Path::new(directory), &ports, bytes.parse()?, seconds)
        }
        [transport, bytes, seconds] => compare(transport, bytes, seconds),
        _ => Err("usage: throughput quic|tls|heartbeats MESSAGE_BYTES SECONDS".into()),
    }
}

/// Runs a receiver and a sender as processes of their own.
fn compare(transport: &str, bytes: &str, seconds: &str) -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    make_certificates(directory.path())?;
    let own = std::env::current_exe()?;
    let mut receiver = Command::new(&own)
        .args(["receive", transport])
        .arg(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(receiver.stdout.take().ok_or("no output")?);
    let mut ports = String::new();
    said.read_line(&mut ports)?;
    let sender = Command::new(&own)
        .args(["send", transport])
        .arg(directory.path())
        .args([ports.trim(), bytes, seconds])
        .output()?;
    drop(receiver.stdin.take());
    let mut received = String::new();
    said.read_to_string(&mut received)?;
    receiver.wait()?;
    let sent = String::from_utf8(sender.stdout)?;
    println!("{transport}, messages of {bytes} bytes");
    print!("{sent}{received}");
    Ok(())
}

fn receive(transport: &str, directory: &Path) -> Result<(), Failure> {
    let meter = Arc::new(Mutex::new(Received::default()));
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let counter = Arc::new(Counter { received: meter.clone(), ..Counter::default() });
    if transport != "tls" {
        let (peers, service) = Peers::open(options(RECEIVER, directory), counter.clone())?;
        let _ = counter.peers.set(peers.clone());
        let ports = Class::ALL.map(|class| peers.local_addr(class).map(|address| address.port()));
        let [one, two] = ports;
        println!("{},{}", one?, two?);
        let nowhere = PeerAddress { host: "127.0.0.1".to_owned(), ports: [1, 1] };
        peers.set_peers(&BTreeMap::from([(BrokerId(SENDER), nowhere)]));
        runtime.spawn(service.run());
    } else {
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        println!("{}", listener.local_addr()?.port());
        let server = Arc::new(server_config(directory)?);
        runtime.spawn(receive_tls(listener, server, meter.clone()));
    }
    // The input ends when the sender has.
    let _ = std::io::stdin().read(&mut [0])?;
    if transport == "heartbeats" {
        return Ok(());
    }
    let received = *meter.lock().map_err(|_| "a receiver panicked")?;
    let (Some(first), Some(last)) = (received.first, received.last) else {
        return Err("nothing was received".into());
    };
    let seconds = (last - first).as_secs_f64();
    println!("received: {:.0} MB/s", received.bytes as f64 / 1e6 / seconds);
    println!("receiver: {:.2} CPU s/GB", cpu_seconds()? / (received.bytes as f64 / 1e9));
    Ok(())
}

async fn receive_tls(
    listener: TcpListener,
    server: Arc<ServerConfig>,
    meter: Arc<Mutex<Received>>,
) -> Result<(), Failure> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let mut stream = TlsAcceptor::from(server).accept(stream).await?;
    loop {
        let length = stream.read_u32_le().await?;
        let mut message = Vec::with_capacity(usize::try_from(length)?);
        (&mut stream).take(u64::from(length)).read_to_end(&mut message).await?;
        meter.lock().map_err(|_| "it panicked")?.count(message.len());
    }
}

fn send(
    transport: &str,
    directory: &Path,
    ports: &[u16],
    bytes: usize,
    time: Duration,
) -> Result<(), Failure> {
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let sent = match (transport, ports) {
        ("quic" | "heartbeats", [one, two]) => {
            let inbox = Arc::new(Counter::default());
            let (peers, service) = Peers::open(options(SENDER, directory), inbox.clone())?;
            let address = PeerAddress { host: "127.0.0.1".to_owned(), ports: [*one, *two] };
            peers.set_peers(&BTreeMap::from([(BrokerId(RECEIVER), address)]));
            runtime.spawn(service.run());
            if transport == "heartbeats" {
                return compare_heartbeats(&peers, &inbox, bytes, time);
            }
            let sent = send_quic(&peers, bytes, time);
            // What is acknowledged by QUIC has arrived: the queue is empty before that.
            std::thread::sleep(Duration::from_millis(200));
            sent
        }
        ("tls", [port]) => {
            runtime.block_on(send_tls(*port, client_config(directory)?, bytes, time))?
        }
        _ => return Err("ports and transport do not match".into()),
    };
    println!("sender: {:.2} CPU s/GB", cpu_seconds()? / (sent as f64 / 1e9));
    Ok(())
}

fn send_quic(peers: &Peers, bytes: usize, time: Duration) -> usize {
    let message = message(bytes);
    let (mut end, mut sent) = (None, 0);
    for shard in (1..=SHARDS).cycle() {
        loop {
            let taken = peers.send(BrokerId(RECEIVER), ShardId(shard), HistoryId(0), &message);
            if taken == Sent::Taken {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        sent += bytes;
        // The clock starts when there is a connection.
        if Instant::now() > *end.get_or_insert_with(|| Instant::now() + time) {
            break;
        }
    }
    let queued = |peers: &Peers| {
        let figures = peers.figures();
        figures.iter().map(|peer| peer.lane(Lane::Append).queued_bytes).sum::<usize>()
    };
    while queued(peers) > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}

/// Heartbeats alone, and beside a bulk lane that is full in both directions.
fn compare_heartbeats(
    peers: &Peers,
    inbox: &Counter,
    bytes: usize,
    time: Duration,
) -> Result<(), Failure> {
    while peers.figures().iter().any(|peer| !Class::ALL.iter().all(|c| peer.link(*c).is_connected))
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    send_heartbeats(peers, inbox, "nothing", time)?;
    let answered = Arc::new(Mutex::new(0));
    for _ in 0..REQUESTS {
        let (peers, answered) = (peers.clone(), answered.clone());
        tokio::spawn(async move {
            let request = Bytes::from(vec![7; bytes]);
            while let Ok(reply) = peers.request(BrokerId(RECEIVER), request.clone()) {
                let Ok(answer) = reply.await else { return };
                if let Ok(mut answered) = answered.lock() {
                    *answered += answer.len();
                }
            }
        });
    }
    send_heartbeats(peers, inbox, "a full bulk lane", time)?;
    let answered = *answered.lock().map_err(|_| "a request panicked")? as f64;
    println!("bulk: {:.0} MB/s in each direction", answered / 1e6 / time.as_secs_f64());
    Ok(())
}

/// Sends a heartbeat every few milliseconds, and prints the times until the answers.
fn send_heartbeats(
    peers: &Peers,
    inbox: &Counter,
    beside: &str,
    time: Duration,
) -> Result<(), Failure> {
    let (start, mut took) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let sent = Instant::now();
        let number = u64::try_from(took.len())?;
        let context = Bytes::copy_from_slice(&number.to_le_bytes());
        let body = Body::Heartbeat { commit: 0, context };
        let heartbeat = Message { from: 1, to: 2, term: 1, body };
        let taken = peers.send(BrokerId(RECEIVER), ShardId(1), HistoryId(0), &heartbeat);
        if taken != Sent::Taken {
            return Err("a heartbeat was not taken".into());
        }
        while *inbox.answered.lock().map_err(|_| "it panicked")? != Some(number) {
            std::thread::sleep(Duration::from_micros(100));
        }
        took.push(sent.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(Duration::from_millis(5));
    }
    *inbox.answered.lock().map_err(|_| "it panicked")? = None;
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    println!("heartbeat and answer beside {beside}: p50 {p50:.1}, p99 {p99:.1}, max {max:.1} ms");
    Ok(())
}

async fn send_tls(
    port: u16,
    client: ClientConfig,
    bytes: usize,
    time: Duration,
) -> Result<usize, Failure> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name(RECEIVER))?;
    let mut stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await?;
    let message = message(bytes);
    let (end, mut sent) = (Instant::now() + time, 0);
    while Instant::now() < end {
        let payload: Payload = message.encode(HistoryId(0));
        stream.write_u32_le(u32::try_from(payload.len())?).await?;
        for chunk in payload.chunks() {
            stream.write_all(chunk).await?;
        }
        sent += bytes;
    }
    stream.shutdown().await?;
    Ok(sent)
}

/// An append message with one entry.
fn message(bytes: usize) -> Message {
    let data = Bytes::from(vec![7; bytes]);
    let entry = Entry { index: 1, term: 1, kind: EntryKind::Normal, data: data.into() };
    let previous = EntryId { index: 0, term: 0 };
    Message {
        from: 1,
        to: 2,
        term: 1,
        body: Body::Append { previous, commit: 0, entries: vec![entry] },
    }
}

/// What arrived, and when.
#[derive(Debug, Default, Clone, Copy)]
struct Received {
    first: Option<Instant>,
    last: Option<Instant>,
    bytes: usize,
}

impl Received {
    fn count(&mut self, bytes: usize) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.bytes += bytes;
    }
}

/// Counts the messages of the append lane, and answers heartbeats and requests.
#[derive(Default)]
struct Counter {
    received: Arc<Mutex<Received>>,
    /// The number in the last answer to a heartbeat.
    answered: Mutex<Option<u64>>,
    peers: OnceLock<Peers>,
}

impl Inbox for Counter {
    fn control(&self, from: BrokerId, shard: ShardId, message: Bytes) {
        let Ok(message) = Message::decode(message, HistoryId(0)) else { return };
        if let Body::Heartbeat { context, .. } = message.body {
            let body = Body::HeartbeatResponse { commit: 0, context, is_full: false };
            let answer = Message { from: message.to, to: message.from, term: 1, body };
            if let Some(peers) = self.peers.get() {
                // The sender waits in vain for one that is lost, and the run is seen to hang.
                let _ = peers.send(from, shard, HistoryId(0), &answer);
            }
        } else if let Body::HeartbeatResponse { context, .. } = message.body
            && let Ok(mut answered) = self.answered.lock()
        {
            *answered = context[..].try_into().ok().map(u64::from_le_bytes);
        }
    }

    fn append(&self, _: BrokerId, _: ShardId, message: Bytes) -> Delivery<'_, ()> {
        if let Ok(mut received) = self.received.lock() {
            received.count(message.len());
        }
        Box::pin(async {})
    }

    fn request(&self, _: BrokerId, request: Bytes) -> Delivery<'_, Option<Payload>> {
        Box::pin(async { Some(request.into()) })
    }

    fn connected(&self, _: Connected) {}

    fn disconnected(&self, _: BrokerId) {}

    fn ended(&self, _: BrokerId) {}
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()
}

/// Processor time of this process, user and system.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name of the program, in brackets, may hold spaces.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}

fn name(broker: i32) -> String {
    format!("broker-{broker}.{CLUSTER}.ropewalk")
}

fn file(directory: &Path, broker: i32, kind: &str) -> PathBuf {
    directory.join(format!("{broker}.{kind}"))
}

fn make_certificates(directory: &Path) -> Result<(), Failure> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(directory.join("ca"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    for broker in [SENDER, RECEIVER] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name(broker)])?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        fs::write(file(directory, broker, "chain"), params.signed_by(&key, &issuer)?.pem())?;
        fs::write(file(directory, broker, "key"), key.serialize_pem())?;
    }
    Ok(())
}

fn options(broker: i32, directory: &Path) -> Options {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let certificates = CertificateFiles {
        chain: file(directory, broker, "chain"),
        key: file(directory, broker, "key"),
        ca: directory.join("ca"),
    };
    Options {
        broker: BrokerId(broker),
        cluster_id: CLUSTER.to_owned(),
        incarnation: 1,
        started: None,
        features: 0,
        listen: [any, any],
        certificates,
    }
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn own(directory: &Path, broker: i32) -> Result<Own, Failure> {
    let chain = CertificateDer::pem_file_iter(file(directory, broker, "chain"))?;
    let key = PrivateKeyDer::from_pem_file(file(directory, broker, "key"))?;
    Ok((chain.collect::<Result<_, _>>()?, key))
}

fn roots(directory: &Path) -> Result<Arc<RootCertStore>, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("ca"))?)?;
    Ok(Arc::new(roots))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn server_config(directory: &Path) -> Result<ServerConfig, Failure> {
    let (chain, key) = own(directory, RECEIVER)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(directory)?, provider()).build()?;
    Ok(ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?)
}

fn client_config(directory: &Path) -> Result<ClientConfig, Failure> {
    let (chain, key) = own(directory, SENDER)?;
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(directory)?)
        .with_client_auth_cert(chain, key)?)
}
