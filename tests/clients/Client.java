import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.net.http.WebSocketHandshakeException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** Java's own client: {@code java Client.java}. Its parameters stand in the environment; see `tests/tests/clients.rs`. */
class Client {
    static final HttpClient HTTP = HttpClient.newHttpClient();
    static final String CHAT = """
        {"id":"a","type":"chat","provider":"openai","model":"gpt-6-luna","stream":true,"maxTokens":100,\
        "prompt":"Warum ist der Himmel \u00fcber K\u00f6ln blau?"}""";

    static String variable(String name) {
        return System.getenv("AIHUB_" + name);
    }

    static void must(boolean holds, String what, Object seen) {
        if (!holds) throw new AssertionError(what + ": " + seen);
    }

    /** A frame's text, or how the socket ended: then there is no text. */
    record Said(String text, int closed, String reason) {
        /** The first field of this name; Java has no JSON, and ours has no blanks. */
        String field(String name) {
            var found = Pattern.compile("\"" + name + "\":(?:\"((?:[^\"\\\\]|\\\\.)*)\"|([^,}]*))").matcher(text);
            if (!found.find()) return null;
            return found.group(1) == null ? found.group(2) : found.group(1);
        }

        boolean is(String type) {
            return text != null && type.equals(field("type"));
        }
    }

    /** Frames in the order in which they came, and the socket's end after the last one. */
    static class Socket implements WebSocket.Listener {
        final BlockingQueue<Said> said = new LinkedBlockingQueue<>();
        final StringBuilder begun = new StringBuilder();
        final WebSocket socket;
        final Said ready;

        Socket(String address) throws Exception {
            socket = open(address, variable("TOKEN"), this);
            ready = next();
            must(ready.is("ready"), "the first frame", ready);
        }

        static WebSocket open(String address, String token, WebSocket.Listener listener) {
            var uri = URI.create("ws://" + address + "/mcp");
            var builder = HTTP.newWebSocketBuilder().header("authorization", "Bearer " + token);
            return builder.buildAsync(uri, listener).join();
        }

        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean isLast) {
            begun.append(part);
            if (isLast) {
                said.add(new Said(begun.toString(), 0, null));
                begun.setLength(0);
            }
            socket.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
            said.add(new Said(null, code, reason));
            return null;
        }

        @Override
        public void onError(WebSocket socket, Throwable error) {
            said.add(new Said(null, 1006, error.toString()));
        }

        Said next() throws InterruptedException {
            for (int silent = 0; silent < 30; silent++) {
                var next = said.poll(2, TimeUnit.SECONDS);
                if (next != null) return next;
                // Java (17 and 25) does not always tell of a connection that was cut in the midst of a frame. A ping does.
                try {
                    socket.sendPing(ByteBuffer.allocate(0)).join();
                } catch (CompletionException gone) {
                    return new Said(null, 1006, gone.toString());
                }
            }
            throw new AssertionError("nothing is said");
        }

        /** Passes over everything before it. */
        Said closed() throws InterruptedException {
            for (;;) {
                var next = next();
                if (next.text == null) return next;
            }
        }

        void send(String frame) {
            socket.sendText(frame, true).join();
        }

        /** Adds the chunks of `a` to `answer`, without a gap and none twice, until its end or the socket's. */
        Said read(Answer answer) throws InterruptedException {
            for (;;) {
                var next = next();
                if (!next.is("chunk")) return next;
                var nth = answer.chunks.size() + 1;
                must("a".equals(next.field("id")) && next.field("seq").equals("" + nth), "chunk " + nth, next);
                if (answer.requestId == null) answer.requestId = next.field("requestId");
                answer.chunks.add(next.field("data"));
            }
        }
    }

    static class Answer {
        final List<String> chunks = new ArrayList<>();
        String requestId;
    }

    static int refused(String address) {
        try {
            Socket.open(address, "bad", new WebSocket.Listener() {});
        } catch (CompletionException refusal) {
            if (refusal.getCause() instanceof WebSocketHandshakeException seen) return seen.getResponse().statusCode();
            throw refusal;
        }
        throw new AssertionError("a bad token was taken");
    }

    public static void main(String[] arguments) throws Exception {
        var service = variable("SERVICE");

        // It streams.
        var client = new Socket(service);
        var whole = new Answer();
        client.send(CHAT);
        var done = client.read(whole);
        must(done.is("done"), "the end of a stream", done);
        must(String.join("", whole.chunks).contains("k\u00f6ln"), "what was said", whole.chunks);

        // It is cut in the midst of an answer, twice, and goes on where it was.
        var parts = new Answer();
        var resumed = new ArrayList<Integer>();
        var ask = CHAT;
        String connectionId = null;
        for (;;) {
            var cut = new Socket(variable("PROXY"));
            if (connectionId == null) connectionId = cut.ready.field("connectionId");
            cut.send(ask);
            var end = cut.read(parts);
            if (end.is("done")) {
                must(end.field("requestId").equals(parts.requestId), "the end of the same answer", end);
                cut.socket.sendClose(WebSocket.NORMAL_CLOSURE, "").join();
                break;
            }
            must(end.closed == 1006 && parts.requestId != null, "a cut in the midst of an answer", end);
            var after = parts.chunks.size();
            var name = resumed.isEmpty()
                ? "\"requestId\":\"" + parts.requestId + "\"" : "\"connectionId\":\"" + connectionId + "\"";
            ask = "{\"type\":\"resume\",\"id\":\"a\",\"after\":" + after + "," + name + "}";
            resumed.add(after);
        }
        must(String.join("", parts.chunks).equals(String.join("", whole.chunks)), "what was said in parts", parts.chunks);

        // It is refused, by the status of the upgrade and by a frame after which the socket lives.
        var status = refused(service);
        client.send("{\"id\":\"b\",\"type\":\"sing\"}");
        var error = client.next();
        must(error.is("error") && "b".equals(error.field("id")), "an error", error);
        client.send("{\"type\":\"ping\"}");
        var pong = client.next();
        must(pong.is("pong"), "a sign of life", pong);

        // It is closed, for its own faults and because the service ends.
        var closed = new LinkedHashMap<Integer, String>();
        var tooLong = Integer.parseInt(client.ready.field("maxFrameBytes")) + 1;
        try {
            client.send("x".repeat(tooLong));
        } catch (CompletionException beforeAllOfItWasSent) {
            must(beforeAllOfItWasSent.getCause() instanceof IOException, "the service closes", beforeAllOfItWasSent);
        }
        note(closed, client.closed());
        var malformed = new Socket(service);
        for (int sent = 0; sent <= Integer.parseInt(client.ready.field("malformedFramesAllowed")); sent++) {
            malformed.send("{");
        }
        note(closed, malformed.closed());
        var last = new Socket(service);
        var terminate = HttpRequest.newBuilder(URI.create(variable("TERMINATE"))).POST(BodyPublishers.noBody()).build();
        HTTP.send(terminate, BodyHandlers.discarding());
        note(closed, last.closed());

        var ends = closed.entrySet().stream().map(end -> "\"%d\":\"%s\"".formatted(end.getKey(), end.getValue()));
        var report = """
            {"client":"Java %s","streamed":%d,"resumed":%s,"whole":%d,"refused":%d,"error":"%s","closed":{%s}}"""
            .formatted(Runtime.version(), whole.chunks.size(), resumed, parts.chunks.size(), status, error.field("code"),
                ends.collect(Collectors.joining(",")));
        System.out.println(report);
        // The client's threads would go on for a while.
        System.exit(0);
    }

    static void note(Map<Integer, String> closed, Said end) {
        closed.put(end.closed, end.reason);
    }
}
