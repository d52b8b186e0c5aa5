package ropewalk.kafkajava;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/**
 * A cluster of broker processes, which the script LAUNCH starts below WORK. A cluster that served a test which passed
 * serves the next one that wants the same settings, after {@link Scrub}.
 */
final class BrokerProcesses {
    /** The launcher ended with status 77: the configuration is out of scope by decision. */
    static final class OutOfScope extends RuntimeException {
        OutOfScope(String message) {
            super(message);
        }
    }

    private static final int PORTS_PER_CLUSTER = 20;
    private static final int PORT_MIN = 21000;
    private static final int PORT_MAX = 29000;
    private static final int START_SECONDS_MAX = 200;
    private static final int OTHER_SECONDS_MAX = 90;
    private static int nextPort = PORT_MIN;
    private static int serial;
    /** A cluster that waits for the next test. */
    private static BrokerProcesses idle;

    static {
        Runtime.getRuntime().addShutdownHook(new Thread(BrokerProcesses::stopIdle));
    }

    private final String key;
    private final Path dir;
    private final List<String> addresses;
    private final boolean[] down;
    private boolean wasRestarted;
    /** The dynamic settings of brokers at the start, when the cluster may serve several tests. */
    Set<String> dynamicAtStart;

    private BrokerProcesses(String key, Path dir, List<String> addresses) {
        this.key = key;
        this.dir = dir;
        this.addresses = addresses;
        this.down = new boolean[addresses.size()];
    }

    /** The idle cluster if it has these settings, or a new one. */
    static synchronized BrokerProcesses acquire(int nodes, Map<String, String> settings, boolean reusable) {
        String key = nodes + " " + new TreeMap<>(settings);
        if (idle != null && idle.key.equals(key)) {
            BrokerProcesses found = idle;
            idle = null;
            return found;
        }
        stopIdle();
        BrokerProcesses started = start(key, nodes, settings);
        if (reusable) started.dynamicAtStart = Scrub.dynamic(started);
        return started;
    }

    /** Makes the cluster idle if it can be as it was at its start, and stops it otherwise. */
    void release(boolean passed) {
        synchronized (BrokerProcesses.class) {
            if (passed && dynamicAtStart != null && Scrub.clean(this)) idle = this;
            else stop();
        }
    }

    private static synchronized void stopIdle() {
        if (idle != null) idle.stop();
        idle = null;
    }

    private static BrokerProcesses start(String key, int nodes, Map<String, String> settings) {
        try {
            Path dir = Files.createDirectories(work().resolve("cluster-" + ++serial));
            StringBuilder text = new StringBuilder();
            new TreeMap<>(settings).forEach((k, v) -> text.append(k).append('=').append(v.replace("\n", " ")).append('\n'));
            Path file = Files.writeString(dir.resolve("settings"), text);
            String said;
            try {
                said = call(START_SECONDS_MAX, "start", dir.toString(), "" + nodes, "" + freeBasePort(), file.toString());
            } catch (RuntimeException e) {
                call(OTHER_SECONDS_MAX, "stop", dir.toString());
                throw e;
            }
            return new BrokerProcesses(key, dir, List.of(said.strip().split(",")));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Addresses for clients, in the order of the ids. */
    String bootstrapServers() {
        return String.join(",", addresses);
    }

    /** The addresses of the brokers that run. */
    synchronized String liveBootstrapServers() {
        return String.join(",", IntStream.range(0, nodes()).filter(node -> !down[node]).mapToObj(addresses::get).toList());
    }

    int nodes() {
        return addresses.size();
    }

    int port(int node) {
        String address = addresses.get(node);
        return Integer.parseInt(address.substring(address.lastIndexOf(':') + 1));
    }

    synchronized boolean isDown(int node) {
        return down[node];
    }

    /** Whether every broker has run all the time. */
    synchronized boolean isUntouched() {
        return !wasRestarted;
    }

    synchronized void stopNode(int node) {
        wasRestarted = true;
        call(OTHER_SECONDS_MAX, "stop-node", dir.toString(), "" + node);
        down[node] = true;
    }

    synchronized void startNode(int node) {
        call(OTHER_SECONDS_MAX, "start-node", dir.toString(), "" + node);
        down[node] = false;
    }

    /** Ends the processes. Their data is removed; their logs stay until the suite ends. */
    void stop() {
        call(OTHER_SECONDS_MAX, "stop", dir.toString());
        for (int node = 0; node < nodes(); node++) delete(dir.resolve(node + ".data"));
    }

    private static String call(int seconds, String... arguments) {
        List<String> command = new ArrayList<>(List.of(System.getenv("LAUNCH")));
        command.addAll(List.of(arguments));
        try {
            Path out = Files.createTempFile(work(), "out", "");
            Path err = Files.createTempFile(work(), "err", "");
            Process process = new ProcessBuilder(command).redirectOutput(out.toFile()).redirectError(err.toFile()).start();
            if (!process.waitFor(seconds, TimeUnit.SECONDS)) {
                process.destroyForcibly();
                throw new IllegalStateException(arguments[0] + " was not done after " + seconds + " s");
            }
            String said = Files.readString(err).strip();
            if (process.exitValue() == 77) throw new OutOfScope(said);
            if (process.exitValue() != 0) throw new IllegalStateException(arguments[0] + " failed: " + said);
            return Files.readString(out);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        } catch (InterruptedException e) {
            throw new IllegalStateException(arguments[0] + " was interrupted", e);
        }
    }

    private static Path work() {
        return Path.of(System.getenv("WORK"));
    }

    /** An empty directory, for tests that look for files of a broker. */
    static String emptyDirectory() {
        try {
            return Files.createDirectories(work().resolve("empty")).toString();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static synchronized int freeBasePort() {
        for (int tries = 0; tries < (PORT_MAX - PORT_MIN) / PORTS_PER_CLUSTER; tries++) {
            int base = nextPort;
            nextPort = base + PORTS_PER_CLUSTER < PORT_MAX ? base + PORTS_PER_CLUSTER : PORT_MIN;
            if (IntStream.range(base, base + PORTS_PER_CLUSTER).allMatch(BrokerProcesses::isFree)) return base;
        }
        throw new IllegalStateException("no free ports above " + PORT_MIN);
    }

    private static boolean isFree(int port) {
        try (ServerSocket socket = new ServerSocket()) {
            socket.setReuseAddress(true);
            socket.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), port));
            return true;
        } catch (IOException e) {
            return false;
        }
    }

    private static void delete(Path root) {
        if (!Files.exists(root)) return;
        try (Stream<Path> tree = Files.walk(root)) {
            tree.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
