//! A TCP proxy in front of a part, so that a test can take away the connection and leave the part alone.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Up,
    /// Existing connections are closed, new ones closed at once.
    Cut,
    /// Existing connections are closed, new ones accepted and never answered.
    Silent,
}

/// Forwards connections to one address until told otherwise. Dropping it closes all of them.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    link: watch::Sender<Link>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target`, e.g. `127.0.0.1:8545`.
    ///
    /// # Panics
    /// When no port can be listened on.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (link, state) = watch::channel(Link::Up);
        let accepting = tokio::spawn(accept(listener, target.to_owned(), state));
        Self { address, link, accepting }
    }

    /// Host and port to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An HTTP address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes every connection and each new one at once: the other side has crashed.
    pub fn cut(&self) {
        self.link.send_replace(Link::Cut);
    }

    /// Closes every connection, accepts new ones and never answers them: the other side hangs.
    pub fn silence(&self) {
        self.link.send_replace(Link::Silent);
    }

    /// Forwards again.
    pub fn restore(&self) {
        self.link.send_replace(Link::Up);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.link.send_replace(Link::Cut);
    }
}

async fn accept(listener: TcpListener, target: String, state: watch::Receiver<Link>) {
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let now = *state.borrow();
        if now != Link::Cut {
            tokio::spawn(serve(connection, target.clone(), now, state.clone()));
        }
    }
}

/// Serves one connection until the state of the link is another one.
async fn serve(mut connection: TcpStream, target: String, begun: Link, mut state: watch::Receiver<Link>) {
    let forward = async {
        if begun == Link::Silent {
            return std::future::pending().await;
        }
        if let Ok(mut upstream) = TcpStream::connect(target).await {
            let _ = copy_bidirectional(&mut connection, &mut upstream).await;
        }
    };
    tokio::select! {
        () = forward => {}
        _ = state.wait_for(|now| *now != begun) => {}
    }
}
