package ropewalk.kafkajava;

import org.opentest4j.TestAbortedException;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;

/** The tests that the suite's list excuses, `Class#method | reason` or `Class#* | reason`: they are not run. */
final class NotApplicable {
    static final String DUPLICATE = "the same test with controllers in other processes";

    private static final Map<String, String> LISTED = new LinkedHashMap<>();

    private NotApplicable() { }

    static void load(Path list) throws IOException {
        for (String line : Files.readAllLines(list)) {
            String[] parts = line.split("\\|", 2);
            if (parts.length == 2 && !line.startsWith("#") && !line.startsWith("~")) LISTED.put(parts[0].strip(), parts[1].strip());
        }
    }

    static Optional<String> reason(String name) {
        return Optional.ofNullable(LISTED.getOrDefault(name, LISTED.get(name.split("#")[0] + "#*")));
    }

    static TestAbortedException abort(String why) {
        return new TestAbortedException(why);
    }
}
