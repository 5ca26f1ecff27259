//! Reading and writing by a stream that a type holds, for types that add nothing to it. Knows no type of ours.

/// `AsyncRead` by the stream that each of these patterns of the type has.
macro_rules! reads_by {
    ($type:ty: $stream:ident of $($held:pat),+) => {
        impl tokio::io::AsyncRead for $type {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buffer: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $($held => std::pin::Pin::new($stream).poll_read(cx, buffer),)+
                }
            }
        }
    };
}

/// `AsyncWrite` by the stream that each of these patterns of the type has.
macro_rules! writes_by {
    ($type:ty: $stream:ident of $($held:pat),+) => {
        impl tokio::io::AsyncWrite for $type {
            fn poll_write(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bytes: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                match self.get_mut() {
                    $($held => std::pin::Pin::new($stream).poll_write(cx, bytes),)+
                }
            }

            fn poll_write_vectored(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                slices: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                match self.get_mut() {
                    $($held => std::pin::Pin::new($stream).poll_write_vectored(cx, slices),)+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $($held => $stream.is_write_vectored(),)+
                }
            }

            fn poll_flush(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $($held => std::pin::Pin::new($stream).poll_flush(cx),)+
                }
            }

            fn poll_shutdown(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $($held => std::pin::Pin::new($stream).poll_shutdown(cx),)+
                }
            }
        }
    };
}

pub(crate) use {reads_by, writes_by};
