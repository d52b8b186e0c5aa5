import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's command-line tools one after the other in one JVM, because most tools run for less time than a JVM start.
 *
 * <p>Reads one {"tool": CLASS, "arguments": […], "stdin": TEXT, "seconds": N} per line and answers with a line
 * {"printed": TEXT, "code": N}; the code is -1 after a timeout. The classes of the tools are loaded again for each call,
 * because some keep counts in static fields. When a tool exits, its hooks run and its thread is parked, as in a separate
 * process.
 */
class Tools {
    /** One call of a tool: its input, output and exit code, and the threads that it starts. */
    private record Call(
            InputStream in, ByteArrayOutputStream out, ByteArrayOutputStream err, List<Runnable> hooks,
            CompletableFuture<Integer> ended) {}

    private static final InheritableThreadLocal<Call> CALL = new InheritableThreadLocal<>();

    public static void main(String[] ignored) throws Exception {
        var json = new ObjectMapper();
        var steps = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        var answers = System.out;
        System.setIn(new InputStream() {
            @Override public int read() throws java.io.IOException { return CALL.get().in.read(); }
            @Override public int read(byte[] b, int from, int length) throws java.io.IOException {
                return CALL.get().in.read(b, from, length);
            }
        });
        System.setOut(new PrintStream(new OutputStream() {
            @Override public void write(int b) { CALL.get().out.write(b); }
        }, true));
        System.setErr(new PrintStream(new OutputStream() {
            @Override public void write(int b) { CALL.get().err.write(b); }
        }, true));
        Exit.setShutdownHookAdder((name, hook) -> CALL.get().hooks.add(hook));
        Exit.setExitProcedure((code, message) -> end(code));
        Exit.setHaltProcedure((code, message) -> end(code));
        for (String line; (line = steps.readLine()) != null; ) {
            answers.println(json.writeValueAsString(run(json.readTree(line))));
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    private static Map<String, Object> run(JsonNode step) throws Exception {
        var call = new Call(
            new ByteArrayInputStream(step.get("stdin").asText().getBytes(StandardCharsets.UTF_8)),
            new ByteArrayOutputStream(), new ByteArrayOutputStream(), new ArrayList<>(), new CompletableFuture<>());
        CALL.set(call);
        var arguments = new ArrayList<String>();
        step.get("arguments").forEach(argument -> arguments.add(argument.asText()));
        var loader = new ToolLoader();
        var tool = new Thread(() -> call(loader, step.get("tool").asText(), arguments.toArray(String[]::new)));
        tool.setDaemon(true);
        tool.setContextClassLoader(loader);
        tool.start();
        int code;
        try {
            code = call.ended.get(step.get("seconds").asLong(), TimeUnit.SECONDS);
        } catch (TimeoutException slow) {
            code = -1;
        }
        for (var hook : call.hooks) {
            var runs = new Thread(hook);
            runs.start();
            runs.join(10_000);
        }
        return Map.of("printed", call.out + "\n" + call.err, "code", code);
    }

    private static void call(ClassLoader loader, String tool, String[] arguments) {
        var mine = CALL.get().ended;
        try {
            var main = Class.forName(tool, true, loader).getDeclaredMethod("main", String[].class);
            main.setAccessible(true);
            main.invoke(null, (Object) arguments);
            mine.complete(0);
        } catch (InvocationTargetException thrown) {
            // As the JVM does with what main throws.
            System.err.print("Exception in thread \"main\" ");
            thrown.getCause().printStackTrace();
            mine.complete(1);
        } catch (ReflectiveOperationException wrong) {
            wrong.printStackTrace();
            mine.complete(1);
        }
    }

    private static void end(int code) {
        CALL.get().ended.complete(code);
        while (true) {
            LockSupport.park();
        }
    }

    /** Loads the tools' own classes itself, and leaves all others to the JVM's loader, which loads them once. */
    private static class ToolLoader extends URLClassLoader {
        ToolLoader() throws Exception {
            super(jars(), Tools.class.getClassLoader());
        }

        private static URL[] jars() throws Exception {
            var found = new ArrayList<URL>();
            for (var path : System.getProperty("tools").split(File.pathSeparator)) {
                found.add(new File(path).toURI().toURL());
            }
            return found.toArray(URL[]::new);
        }
    }
}
