// Reads messages with Apache Kafka's own classes, writes them again, and compares the bytes.
//
// Standard input: one message a line, as the example `samples` of ropewalk-codec prints them.
// The last line of output is "N messages agree"; the exit code is 1 if any did not.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.InvocationTargetException;
import java.nio.ByteBuffer;
import java.util.HexFormat;
import java.util.TreeMap;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;
import org.apache.kafka.common.protocol.Readable;

public final class Reference {
    public static void main(String[] arguments) throws Exception {
        long agreed = 0;
        TreeMap<String, Integer> failed = new TreeMap<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] parts = line.split(" ", -1);
            String error = check(parts[0], Short.parseShort(parts[1]), parts[2], HexFormat.of().parseHex(parts[3]));
            if (error == null) {
                agreed++;
            } else if (failed.merge(parts[0] + " v" + parts[1], 1, Integer::sum) == 1) {
                System.out.println(parts[0] + " v" + parts[1] + ": " + error + "\n  " + line);
            }
        }
        if (!failed.isEmpty()) System.out.println("differ: " + failed);
        System.out.println(agreed + " messages agree");
        System.exit(failed.isEmpty() && agreed > 0 ? 0 : 1);
    }

    /** What is wrong with the bytes, or null. */
    private static String check(String name, short version, String kind, byte[] wire) throws Exception {
        // Only the data that consumers wrap into group messages is named without "Data".
        String suffix = name.startsWith("ConsumerProtocol") ? "" : "Data";
        Class<?> type = Class.forName("org.apache.kafka.common.message." + name + suffix);
        ByteBuffer buffer = ByteBuffer.wrap(wire);
        Message message;
        try {
            message = (Message) type.getConstructor(Readable.class, short.class)
                .newInstance(new ByteBufferAccessor(buffer), version);
        } catch (InvocationTargetException error) {
            return error.getCause().toString();
        }
        if (buffer.hasRemaining()) return buffer.remaining() + " bytes left";
        String again = written(message, version);
        if (!again.equals(HexFormat.of().formatHex(wire))) return "written again as " + again;
        if (kind.equals("sample")) return null;
        String ours = written((Message) type.getConstructor().newInstance(), version);
        return ours.equals(again) ? null : "Kafka's default is " + ours;
    }

    private static String written(Message message, short version) {
        ObjectSerializationCache cache = new ObjectSerializationCache();
        ByteBuffer buffer = ByteBuffer.allocate(message.size(cache, version));
        message.write(new ByteBufferAccessor(buffer), cache, version);
        return HexFormat.of().formatHex(buffer.array());
    }
}
