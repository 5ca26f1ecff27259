import java.io.ByteArrayInputStream;
import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpClient.Version;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * Asks by Java's client of HTTP, some requests side by side: GET, and POST with and without a length. Fails with the
 * first answer that is not the one that was to come. Its arguments are the URL in the clear and the one over TLS, the
 * file of the authority that has signed for that, and how many requests each of them gets.
 */
public class Client {
    static final int AT_ONCE = 8;

    public static void main(String[] arguments) throws Exception {
        String clear = arguments[0], secure = arguments[1];
        var tls = trusting(arguments[2]);
        int requests = Integer.parseInt(arguments[3]);
        asks(clear, Version.HTTP_1_1, Version.HTTP_1_1, tls, requests);
        // It asks for an upgrade to HTTP/2, which is not done.
        asks(clear, Version.HTTP_2, Version.HTTP_1_1, tls, requests);
        asks(secure, Version.HTTP_1_1, Version.HTTP_1_1, tls, requests);
        asks(secure, Version.HTTP_2, Version.HTTP_2, tls, requests);
        System.exit(0);
    }

    static SSLContext trusting(String file) throws Exception {
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (var read = new FileInputStream(file)) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(read));
        }
        var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        var context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    static void asks(String url, Version wanted, Version spoken, SSLContext tls, int requests) throws Exception {
        var client = HttpClient.newBuilder().version(wanted).sslContext(tls).build();
        var next = new AtomicInteger();
        var pool = Executors.newFixedThreadPool(AT_ONCE);
        var asking = new ArrayList<Callable<Void>>();
        for (int at = 0; at < AT_ONCE; at++) {
            asking.add(() -> {
                for (int number; (number = next.getAndIncrement()) < requests; ) {
                    ask(client, url, spoken, number);
                }
                return null;
            });
        }
        for (var asked : pool.invokeAll(asking)) {
            asked.get();
        }
        pool.shutdown();
    }

    static void ask(HttpClient client, String url, Version spoken, int number) throws Exception {
        var path = "/cart/" + number;
        var body = new byte[1_000 + number * 7];
        Arrays.fill(body, (byte) ('a' + number % 26));
        var request = HttpRequest.newBuilder(URI.create(url + path));
        byte[] expected = body;
        switch (number % 4) {
            case 0 -> request.POST(BodyPublishers.ofByteArray(body));
            case 1 -> request.POST(BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body)));
            default -> expected = path.getBytes();
        }
        var answer = client.send(request.build(), BodyHandlers.ofByteArray());
        var is = answer.statusCode() + " " + answer.version();
        if (!is.equals("200 " + spoken) || !Arrays.equals(answer.body(), expected)) {
            throw new IllegalStateException(url + " " + number + ": " + is + ", " + answer.body().length + " bytes");
        }
    }
}
