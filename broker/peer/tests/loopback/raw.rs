//! A client that speaks QUIC with a valid certificate and sends whatever a test wants.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use ropewalk_peer::Class;
use ropewalk_peer::hello::{Answer, Hello, PROTOCOLS};
use ropewalk_shard::BrokerId;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::{Builder, Runtime};

use crate::authority::{Authority, CLUSTER, Issued, name};
use crate::broker::{Broker, HANG};

pub(crate) struct Raw {
    runtime: Runtime,
    endpoint: Endpoint,
}

impl Raw {
    /// A client with this certificate.
    pub(crate) fn new(issued: &Issued, authority: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(
                CertificateDer::from_pem_slice(authority.pem.as_bytes())
                    .expect("it works in a test"),
            )
            .expect("it works in a test");
        let chain = vec![
            CertificateDer::from_pem_slice(issued.chain.as_bytes()).expect("it works in a test"),
        ];
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("it works in a test");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("it works in a test")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("it works in a test");
        tls.alpn_protocols = vec![b"ropewalk-peer".to_vec()];
        let config = ClientConfig::new(Arc::new(
            QuicClientConfig::try_from(tls).expect("it works in a test"),
        ));
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("it works in a test");
        let entered = runtime.enter();
        let mut endpoint =
            Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).expect("it works in a test");
        drop(entered);
        endpoint.set_default_client_config(config);
        Self { runtime, endpoint }
    }

    /// A client with the certificate of a broker of the cluster.
    pub(crate) fn broker(authority: &Authority, id: i32) -> Self {
        Self::new(&authority.broker(id), authority)
    }

    /// Connects to a class of a broker. The broker may still refuse the certificate.
    pub(crate) fn connect(&self, to: &Broker, class: Class) -> Result<Connection, ConnectionError> {
        let address = to.peers.local_addr(class).expect("it works in a test");
        self.block_on(async {
            self.endpoint.connect(address, &name(to.id.0)).expect("it works in a test").await
        })
    }

    /// Sends these bytes as a hello with this length, and reads the answer.
    pub(crate) fn greet_with(
        &self,
        connection: &Connection,
        length: u32,
        bytes: &[u8],
    ) -> Result<Answer, ConnectionError> {
        self.block_on(async {
            let (mut send, mut receive) = connection.open_bi().await?;
            let _ = send.write_all(&length.to_le_bytes()).await;
            let _ = send.write_all(bytes).await;
            let _ = send.finish();
            match receive.read_to_end(2048).await {
                Ok(answer) if answer.len() > 4 => {
                    Ok(Answer::decode(&answer[4..]).expect("it works in a test"))
                }
                Ok(_) | Err(_) => Err(connection.closed().await),
            }
        })
    }

    pub(crate) fn greet(&self, connection: &Connection, hello: &Hello) -> Answer {
        let bytes = hello.encode();
        let length = u32::try_from(bytes.len()).expect("it works in a test");
        self.greet_with(connection, length, &bytes).expect("an answer")
    }

    /// A connection whose hello is accepted, as broker 9.
    pub(crate) fn accepted(&self, to: &Broker, class: Class) -> Connection {
        let connection = self.connect(to, class).expect("it works in a test");
        let answer = self.greet(&connection, &hello(9, to.id.0, class));
        assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
        connection
    }

    /// Writes these bytes to a stream of one direction, and finishes it unless it stays open.
    pub(crate) fn write(
        &self,
        connection: &Connection,
        bytes: &[u8],
        finishes: bool,
    ) -> SendStream {
        self.block_on(async {
            let mut stream = connection.open_uni().await.expect("it works in a test");
            stream.write_all(bytes).await.expect("it works in a test");
            if finishes {
                stream.finish().expect("it works in a test");
            }
            stream
        })
    }

    /// Opens a stream of both directions and writes these bytes.
    pub(crate) fn write_both(
        &self,
        connection: &Connection,
        bytes: &[u8],
    ) -> (SendStream, RecvStream) {
        self.block_on(async {
            let (mut send, receive) = connection.open_bi().await.expect("it works in a test");
            send.write_all(bytes).await.expect("it works in a test");
            (send, receive)
        })
    }

    /// Waits until the broker closes the connection, and returns its error code.
    pub(crate) fn closed(&self, connection: &Connection) -> u64 {
        let closed = self.block_on(connection.closed());
        let ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
        close.error_code.into_inner()
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(HANG, future).await };
        self.runtime.block_on(limited).expect("the broker answers")
    }
}

/// A hello that broker `to` accepts from broker `from`.
pub(crate) fn hello(from: i32, to: i32, class: Class) -> Hello {
    Hello {
        protocols: PROTOCOLS,
        class,
        broker: BrokerId(from),
        to: BrokerId(to),
        incarnation: 5,
        process: 50,
        features: 0,
        cluster_id: CLUSTER.to_owned(),
        earlier: Vec::new(),
    }
}
