// Places orders by java.net.http, which tries no POST again by itself: the loop around it does, with the
// same key. Run by retrying_clients.py:
//
//     java MoreClients.java URL MILLISECONDS < lines of "key<tab>order"
//
// Prints a line for each: "status<tab>how often it was asked again<tab>answer".

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

public class MoreClients {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        Duration patience = Duration.ofMillis(Long.parseLong(args[1]));
        ExecutorService threads = Executors.newCachedThreadPool();
        List<Future<String>> placing = new ArrayList<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null; ) {
            String[] order = line.split("\t", 2);
            HttpRequest request = HttpRequest.newBuilder(URI.create(args[0]))
                    .timeout(patience)
                    .header("Idempotency-Key", '"' + order[0] + '"')
                    .POST(HttpRequest.BodyPublishers.ofString(order[1]))
                    .build();
            placing.add(threads.submit(() -> place(client, request)));
        }
        for (Future<String> placed : placing) {
            System.out.println(placed.get());
        }
        threads.shutdown();
    }

    static String place(HttpClient client, HttpRequest request) throws Exception {
        for (int again = 0; again < 12; again++) {
            long wait = 100;
            try {
                HttpResponse<String> answer =
                        client.send(request, HttpResponse.BodyHandlers.ofString());
                String retryable = answer.headers().firstValue("idempotency-retryable").orElse("");
                if (!retryable.equals("true")) {
                    return answer.statusCode() + "\t" + again + "\t" + answer.body().strip();
                }
                wait = 1000 * answer.headers().firstValueAsLong("retry-after").orElse(1);
            } catch (IOException lost) {
                // No answer, or not the whole of it: the same request with the same key.
            }
            Thread.sleep(wait);
        }
        throw new IOException("no answer after 12 tries");
    }
}
