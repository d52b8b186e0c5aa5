package ropewalk.kafkajava;

import org.junit.platform.engine.FilterResult;
import org.junit.platform.engine.TestExecutionResult;
import org.junit.platform.engine.discovery.DiscoverySelectors;
import org.junit.platform.engine.support.descriptor.MethodSource;
import org.junit.platform.launcher.Launcher;
import org.junit.platform.launcher.LauncherDiscoveryRequest;
import org.junit.platform.launcher.PostDiscoveryFilter;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestIdentifier;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;

import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ConcurrentHashMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * Runs the tests that TESTS selects and whose CLASS#METHOD contains ONLY (a regular expression), without those that LIST
 * excuses. Appends a result per test to RESULTS, in the format of verdict.py; what failed is printed with its trace.
 *
 * <pre>Main TESTS LIST RESULTS [ONLY]</pre>
 */
public final class Main {
    private static final Pattern INVOCATION = Pattern.compile(".*\\[(\\d+)\\]");

    private Main() { }

    public static void main(String[] arguments) throws Exception {
        Map<String, Pattern> wanted = new ConcurrentHashMap<>();
        for (String line : Files.readAllLines(Path.of(arguments[0]))) {
            if (line.isBlank() || line.startsWith("#")) continue;
            String[] parts = line.split("#", 2);
            wanted.put(parts[0], Pattern.compile(parts[1]));
        }
        NotApplicable.load(Path.of(arguments[1]));
        Pattern only = Pattern.compile(arguments.length > 3 ? arguments[3] : "");
        PostDiscoveryFilter filter = test -> method(test.getSource()).map(m -> FilterResult.includedIf(
            wanted.get(m.getClassName()).matcher(m.getMethodName()).matches() && only.matcher(nameOf(m)).find()
                && NotApplicable.reason(nameOf(m)).isEmpty()))
            .orElse(FilterResult.included("not a method"));
        LauncherDiscoveryRequest request = LauncherDiscoveryRequestBuilder.request()
            .selectors(wanted.keySet().stream().sorted().map(DiscoverySelectors::selectClass).toList())
            .filters(filter)
            .configurationParameter("junit.jupiter.extensions.autodetection.enabled", "true")
            .configurationParameter("junit.jupiter.execution.timeout.mode", "disabled") // Deadline limits them.
            .build();
        Launcher launcher = LauncherFactory.create();
        try (PrintWriter results = new PrintWriter(Files.newBufferedWriter(Path.of(arguments[2]),
                StandardOpenOption.CREATE, StandardOpenOption.APPEND), true)) {
            launcher.execute(launcher.discover(request), new Results(results));
        }
        System.exit(0);
    }

    private static Optional<MethodSource> method(Optional<? extends Object> source) {
        return source.filter(MethodSource.class::isInstance).map(MethodSource.class::cast);
    }

    private static String nameOf(MethodSource method) {
        String className = method.getClassName();
        return className.substring(className.lastIndexOf('.') + 1) + "#" + method.getMethodName();
    }

    private static final class Results implements TestExecutionListener {
        private final Map<String, Long> begun = new ConcurrentHashMap<>();
        private final PrintWriter results;

        Results(PrintWriter results) {
            this.results = results;
        }

        @Override
        public void executionStarted(TestIdentifier test) {
            begun.put(test.getUniqueId(), System.nanoTime());
        }

        @Override
        public void executionSkipped(TestIdentifier test, String reason) {
            if (!reason.startsWith(NotApplicable.DUPLICATE)) add("skipped", test, reason);
        }

        @Override
        public void executionFinished(TestIdentifier test, TestExecutionResult result) {
            Throwable thrown = result.getThrowable().orElse(null);
            switch (result.getStatus()) {
                case SUCCESSFUL -> {
                    if (test.isTest()) add("passed", test, "");
                }
                case ABORTED -> add("skipped", test, thrown == null ? "" : String.valueOf(thrown.getMessage()));
                default -> {
                    // A class that fails as a whole is one failure.
                    add("failed", test, thrown == null ? "" : thrown.toString());
                    if (thrown != null) thrown.printStackTrace(System.out);
                }
            }
        }

        /** The second and further invocations of a method have their number in the name. */
        private synchronized void add(String outcome, TestIdentifier test, String said) {
            String name = method(test.getSource()).map(Main::nameOf).orElse(test.getLegacyReportingName());
            Matcher number = INVOCATION.matcher(test.getDisplayName().split("\\]", 2)[0] + "]");
            if (test.isTest() && number.matches() && !number.group(1).equals("1")) name += "[" + number.group(1) + "]";
            Long start = begun.remove(test.getUniqueId());
            System.out.printf("%s %s after %.1f s %s%n", name, outcome, start == null ? 0 : (System.nanoTime() - start) / 1e9, said);
            results.println(String.join("\t", Stream.of(name, outcome, said.replaceAll("\\s+", " ")).toList()));
        }
    }
}
