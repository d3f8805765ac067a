//! A future that is finished by a runtime of the database when whoever waits for it goes away.
//!
//! A client that vanishes drops its request. What it sent may be in an owner's queue by then: the rest of the append must still
//! happen in order, and who counts on its end ([`super::tracking`]) must see it.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::runtime::Handle;

/// See the module docs.
pub struct Finishing<T: Send + 'static> {
    future: Option<BoxFuture<'static, T>>,
    runtime: Handle,
}

impl<T: Send + 'static> Finishing<T> {
    /// Wraps `future`; `runtime` takes over when this is dropped before its end.
    pub fn new(runtime: Handle, future: impl Future<Output = T> + Send + 'static) -> Self {
        Self { future: Some(Box::pin(future)), runtime }
    }
}

impl<T: Send + 'static> Future for Finishing<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let future = self.future.as_mut().expect("it is not polled after its end");
        let answer = std::task::ready!(future.as_mut().poll(context));
        self.future = None;
        Poll::Ready(answer)
    }
}

impl<T: Send + 'static> Drop for Finishing<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            drop(self.runtime.spawn(future));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn what_nobody_waits_for_is_finished_all_the_same() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let (begin, begun) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let work = async move {
            begun.await.unwrap();
            end.send(7).unwrap();
        };
        let mut finishing = Finishing::new(runtime.handle().clone(), work);
        runtime.block_on(async {
            assert!(tokio::time::timeout(Duration::from_millis(1), &mut finishing).await.is_err());
            drop(finishing);
            begin.send(()).unwrap();
            assert_eq!(ended.await.unwrap(), 7);
        });
    }
}
