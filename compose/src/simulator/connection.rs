//! Connections that can be cut from inside, as a crash or a network would.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Cuts the connection that a call came on. Calls find it among their extensions.
#[derive(Clone, Debug)]
pub(super) struct Cut(CancellationToken);

impl Cut {
    pub(super) fn cut(&self) {
        self.0.cancel();
    }
}

/// A connection that ends when it is cut.
pub(super) struct Connection {
    stream: TcpStream,
    cut: Cut,
    is_cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    fn new(stream: TcpStream, token: CancellationToken) -> Self {
        Self { stream, is_cut: Box::pin(token.clone().cancelled_owned()), cut: Cut(token) }
    }

    /// Ready with the error of a reset connection once it is cut; wakes the task when that happens.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        let ready = self.is_cut.as_mut().poll(cx).is_ready();
        ready.then(|| io::ErrorKind::ConnectionReset.into())
    }
}

impl Connected for Connection {
    type ConnectInfo = Cut;

    fn connect_info(&self) -> Cut {
        self.cut.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.poll_cut(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.poll_cut(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How long a failing listener is left alone.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);

/// The connections of a listener. `parent` gives the token whose children they are, so that all can be cut at once.
pub(super) fn accept(
    listener: TcpListener,
    parent: impl Fn() -> CancellationToken + Send + 'static,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    futures::stream::unfold((listener, parent), |(listener, parent)| async move {
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            Ok(Connection::new(stream, parent().child_token()))
        });
        if accepted.is_err() {
            // Out of file descriptors, mostly: asking again at once would spin.
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        }
        Some((accepted, (listener, parent)))
    })
}
