// A CartPole in C# with nothing but HttpClient: .NET, Mono, Unity and Godot.
//
//     dotnet new console -o simulator && cp examples/Simulator.cs simulator/Program.cs
//     dotnet run --project simulator -- http://localhost:8000 cartpole 500

using System;
using System.Globalization;
using System.Net.Http;
using System.Text;
using System.Threading.Tasks;

static class Simulator {
    static readonly HttpClient Http = new HttpClient { Timeout = TimeSpan.FromSeconds(10) };
    static readonly Random Chance = new Random();

    // Every request tells its run and its step, so that it may be sent again when the connection breaks.
    static async Task<string> Ask(HttpMethod method, string address, string body) {
        for (bool again = false; ; again = true) {
            try {
                using (var request = new HttpRequestMessage(method, address)) {
                    if (body != "") request.Content = new StringContent(body, Encoding.UTF8, "application/json");
                    using (var response = await Http.SendAsync(request)) {
                        string content = await response.Content.ReadAsStringAsync();
                        int status = (int)response.StatusCode;
                        bool gone = method == HttpMethod.Delete && status == 404;  // ended by the request before
                        if (status / 100 != 2 && !gone) throw new InvalidOperationException(status + ": " + content);
                        return content;
                    }
                }
            } catch (Exception error) when (!again && !(error is InvalidOperationException)) {
                Console.Error.WriteLine("once more after: " + error.Message);
            }
        }
    }

    // A number or a word of an answer like {"step":1,"action":0,"version":"export","train_step":700}.
    static string Part(string answer, string name) {
        string key = "\"" + name + "\":";
        int at = answer.IndexOf(key, StringComparison.Ordinal);
        if (at < 0) throw new InvalidOperationException("an answer without " + name + ": " + answer);
        string rest = answer.Substring(at + key.Length);
        return rest.Substring(0, rest.IndexOfAny(new[] { ',', '}' })).Trim('"');
    }

    // x, its velocity, the pole's angle, its velocity.
    static double[] Begin() {
        var state = new double[4];
        for (int i = 0; i < 4; i++) state[i] = Chance.NextDouble() * 0.1 - 0.05;
        return state;
    }

    static double[] Move(double[] state, bool right) {
        double speed = state[1], angle = state[2], spin = state[3], sin = Math.Sin(angle), cos = Math.Cos(angle);
        double push = ((right ? 10 : -10) + 0.05 * spin * spin * sin) / 1.1;
        double turn = (9.8 * sin - cos * push) / (0.5 * (4.0 / 3 - 0.1 * cos * cos / 1.1));
        double pull = push - 0.05 * turn * cos / 1.1;
        return new[] { state[0] + 0.02 * speed, speed + 0.02 * pull, angle + 0.02 * spin, spin + 0.02 * turn };
    }

    static bool Fallen(double[] state) => Math.Abs(state[0]) > 2.4 || Math.Abs(state[2]) > 0.2095;

    static string Json(double[] state) {
        var numbers = Array.ConvertAll(state, number => number.ToString("R", CultureInfo.InvariantCulture));
        return "[" + string.Join(", ", numbers) + "]";
    }

    static void Main(string[] given) => Play(given).GetAwaiter().GetResult();

    static async Task Play(string[] given) {
        string url = given.Length > 0 ? given[0] : "http://localhost:8000";
        string policy = given.Length > 1 ? given[1] : "cartpole";
        int steps = given.Length > 2 ? int.Parse(given[2]) : 500, episodes = 0;
        string run = Guid.NewGuid().ToString(), id = "simulator-" + run;
        string sessions = $"{url}/v1/policies/{policy}/sessions";

        double[] state = Begin();
        bool over = false;
        string begin = $"{{\"id\": \"{id}\", \"run_id\": \"{run}\", \"observation\": {Json(state)}}}";
        string answer = await Ask(HttpMethod.Post, sessions, begin);
        for (int step = 1; step <= steps; step++) {
            bool first = over;
            state = first ? Begin() : Move(state, Part(answer, "action") == "1");
            over = Fallen(state);
            if (over) episodes++;
            string outcome = $"\"reward\": {(first ? 0 : 1)}, \"discount\": {(over ? 0 : 1)}";
            string names = $"\"step\": {step}, \"run_id\": \"{run}\", \"first\": {(first ? "true" : "false")}";
            string body = $"{{{names}, \"observation\": {Json(state)}, {outcome}}}";
            answer = await Ask(HttpMethod.Post, $"{sessions}/{id}/action", body);
        }
        await Ask(HttpMethod.Delete, $"{sessions}/{id}?run_id={run}", "");
        Console.WriteLine($"{Part(answer, "step")} steps, {episodes} episodes, weights {Part(answer, "version")}");
    }
}
