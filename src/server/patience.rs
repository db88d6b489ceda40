//! How long a connection may keep the server waiting.
//!
//! [`Patient`] gives up on who does not read, [`Upload`] on who does not send what was begun, and
//! [`Activity`] knows since when nothing at all is being answered. A long poll is none of these.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A timer that runs only while somebody is waited for.
struct Waiting {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Waiting {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    /// Passes a poll on, or an error if it has been pending for too long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<T>) -> Poll<Result<T, io::Error>> {
        match poll {
            Poll::Ready(value) => {
                self.timer = None;
                Poll::Ready(Ok(value))
            }
            Poll::Pending => {
                let limit = self.limit;
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other side stalled")))
            }
        }
    }
}

/// A connection that fails when the other side does not take what is written.
pub struct Patient<IO> {
    io: IO,
    waiting: Waiting,
}

impl<IO> Patient<IO> {
    /// Waits for `limit` at most.
    pub fn new(io: IO, limit: Duration) -> Self {
        Self { io, waiting: Waiting::new(limit) }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Patient<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Patient<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.waiting.watch(cx, written).map(Result::flatten)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.waiting.watch(cx, flushed).map(Result::flatten)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(cx);
        self.waiting.watch(cx, shut).map(Result::flatten)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.waiting.watch(cx, written).map(Result::flatten)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The body of a request, which fails when it does not arrive.
pub struct Upload {
    body: Incoming,
    waiting: Waiting,
}

impl Upload {
    pub(super) fn new(body: Incoming, limit: Duration) -> Self {
        Self { body, waiting: Waiting::new(limit) }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        Poll::Ready(match ready!(self.waiting.watch(cx, frame)) {
            Ok(frame) => frame.map(|frame| frame.map_err(Into::into)),
            Err(stalled) => Some(Err(stalled.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How many requests are being answered on a connection, and since when there are none.
#[derive(Clone)]
pub struct Activity(Arc<Mutex<(usize, Instant)>>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new((0, Instant::now()))))
    }

    /// Counts a request until the returned value is dropped.
    pub(super) fn busy(&self) -> Busy {
        self.0.lock().0 += 1;
        Busy(self.clone())
    }

    /// Begins to count the idle time anew.
    pub(super) fn touch(&self) {
        self.0.lock().1 = Instant::now();
    }

    /// Ends when nothing has been answered for `limit`.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let (busy, since) = *self.0.lock();
            let now = Instant::now();
            match busy {
                0 if now >= since + limit => return,
                0 => sleep_until(since + limit).await,
                _ => sleep_until(now + limit).await,
            }
        }
    }
}

/// A request that is being answered.
pub struct Busy(Activity);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.0 -= 1;
        state.1 = Instant::now();
    }
}

/// The body of an answer. Until it is sent, its request counts as being answered.
pub struct Answer<B> {
    body: Pin<Box<Either<B, Full<Bytes>>>>,
    _busy: Busy,
}

impl<B> Answer<B> {
    pub(super) fn new(body: B, busy: Busy) -> Self {
        Self { body: Box::pin(Either::Left(body)), _busy: busy }
    }

    pub(super) fn ours(body: Full<Bytes>, busy: Busy) -> Self {
        Self { body: Box::pin(Either::Right(body)), _busy: busy }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>>> Body for Answer<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
