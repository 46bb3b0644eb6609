// A CartPole in C++17 with nothing but POSIX sockets: JSON over one connection that is kept open.
//
//     g++ -std=c++17 -O2 -o simulator examples/simulator.cpp
//     ./simulator localhost 8000 cartpole 500

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>

// One connection to the server. Every request of this program tells its run and its step, so that it may be sent again.
class Connection {
public:
    Connection(std::string host, std::string port) : host_(std::move(host)), port_(std::move(port)) {}
    ~Connection() { drop(); }
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    // The body of the answer. Throws std::runtime_error for a refusal, or where there is no answer twice.
    std::string ask(const std::string& method, const std::string& path, const std::string& body) {
        const std::string request = method + " " + path + " HTTP/1.1\r\nHost: " + host_ + ":" + port_ +
                                    "\r\nContent-Type: application/json\r\nContent-Length: " +
                                    std::to_string(body.size()) + "\r\n\r\n" + body;
        std::optional<std::string> answer = exchange(request);
        if (!answer) answer = exchange(request);  // the connection was broken: once more, over a new one
        if (!answer) throw std::runtime_error("no answer from " + host_ + ":" + port_);
        const int status = std::atoi(answer->c_str() + 9);  // "HTTP/1.1 200 OK"
        const std::string content = answer->substr(answer->find("\r\n\r\n") + 4);
        const bool gone = method == "DELETE" && status == 404;  // it has ended already, by the request before
        if (status / 100 != 2 && !gone) throw std::runtime_error(std::to_string(status) + ": " + content);
        return content;
    }

private:
    // Head and body of the answer; none where the connection breaks.
    std::optional<std::string> exchange(const std::string& request) {
        if (socket_ < 0 && !connect()) return std::nullopt;
        std::string answer;
        for (std::size_t sent = 0; sent < request.size();) {
            const ssize_t n = send(socket_, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
            if (n <= 0) return drop();
            sent += std::size_t(n);
        }
        for (std::size_t end = std::string::npos; end == std::string::npos || answer.size() < end;) {
            char piece[4096];
            const ssize_t n = recv(socket_, piece, sizeof piece, 0);
            if (n <= 0) return drop();
            answer.append(piece, std::size_t(n));
            const std::size_t head = answer.find("\r\n\r\n");
            if (head != std::string::npos) end = head + 4 + length(answer, head);
        }
        return answer;
    }

    // What the head says of the body's length; 204 has none.
    static std::size_t length(const std::string& answer, std::size_t head) {
        const std::string name = "\r\ncontent-length:";
        for (std::size_t at = answer.find("\r\n"); at < head; at = answer.find("\r\n", at + 2)) {
            std::size_t same = 0;
            while (same < name.size() && std::tolower(answer[at + same]) == name[same]) ++same;
            if (same == name.size()) return std::strtoul(answer.c_str() + at + same, nullptr, 10);
        }
        return 0;
    }

    bool connect() {
        addrinfo wanted{}, *found = nullptr;
        wanted.ai_socktype = SOCK_STREAM;
        if (getaddrinfo(host_.c_str(), port_.c_str(), &wanted, &found) != 0) return false;
        for (addrinfo* place = found; place && socket_ < 0; place = place->ai_next) {
            socket_ = socket(place->ai_family, place->ai_socktype, place->ai_protocol);
            if (socket_ >= 0 && ::connect(socket_, place->ai_addr, place->ai_addrlen) != 0) drop();
        }
        freeaddrinfo(found);
        if (socket_ < 0) return false;
        const int yes = 1;
        const timeval patience{10, 0};
        setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        return true;
    }

    std::nullopt_t drop() {
        if (socket_ >= 0) close(socket_);
        socket_ = -1;
        return std::nullopt;
    }

    std::string host_, port_;
    int socket_ = -1;
};

// A number or a word of an answer like {"step":1,"action":0,"version":"export","train_step":700}.
std::string part(const std::string& answer, const std::string& name) {
    const std::string key = "\"" + name + "\":";
    const std::size_t at = answer.find(key);
    if (at == std::string::npos) throw std::runtime_error("an answer without " + name + ": " + answer);
    const std::size_t begin = answer.find_first_not_of('"', at + key.size());
    return answer.substr(begin, answer.find_first_of("\",}", begin) - begin);
}

struct CartPole {
    std::array<double, 4> state{};  // x, its velocity, the pole's angle, its velocity
    std::mt19937 random{std::random_device{}()};

    void begin() {
        std::uniform_real_distribution<double> near(-0.05, 0.05);
        for (double& number : state) number = near(random);
    }

    // Whether the pole still stands, 0.02 seconds later.
    bool move(int action) {
        auto& [x, speed, angle, spin] = state;
        const double push = ((action == 1 ? 10.0 : -10.0) + 0.05 * spin * spin * std::sin(angle)) / 1.1;
        const double turn = (9.8 * std::sin(angle) - std::cos(angle) * push) /
                            (0.5 * (4.0 / 3.0 - 0.1 * std::cos(angle) * std::cos(angle) / 1.1));
        const double pull = push - 0.05 * turn * std::cos(angle) / 1.1;
        x += 0.02 * speed, speed += 0.02 * pull, angle += 0.02 * spin, spin += 0.02 * turn;
        return std::abs(x) < 2.4 && std::abs(angle) < 0.2095;
    }

    std::string json() const {
        char text[128];
        std::snprintf(text, sizeof text, "[%.9g, %.9g, %.9g, %.9g]", state[0], state[1], state[2], state[3]);
        return text;
    }
};

int main(int count, char** given) try {
    const std::string host = count > 1 ? given[1] : "localhost", port = count > 2 ? given[2] : "8000";
    const std::string policy = count > 3 ? given[3] : "cartpole";
    const int steps = count > 4 ? std::atoi(given[4]) : 500;

    Connection server(host, port);
    CartPole game;
    const std::string run = std::to_string(std::random_device{}()) + "-" + std::to_string(getpid());
    const std::string sessions = "/v1/policies/" + policy + "/sessions", id = "simulator-" + run;
    const std::string names = "\"run_id\": \"" + run + "\", ";

    game.begin();
    const std::string begin = "{\"id\": \"" + id + "\", " + names + "\"observation\": " + game.json() + "}";
    std::string answer = server.ask("POST", sessions, begin);
    int episodes = 0;
    bool over = false;
    for (int step = 1; step <= steps; ++step) {
        const bool first = over;
        if (first) game.begin();
        over = !first && !game.move(std::stoi(part(answer, "action")));
        episodes += over;
        const std::string body = "{\"step\": " + std::to_string(step) + ", " + names +
                                 "\"observation\": " + game.json() +
                                 ", \"reward\": " + (first ? "0" : "1") +
                                 ", \"discount\": " + (over ? "0" : "1") +
                                 ", \"first\": " + (first ? "true" : "false") + "}";
        answer = server.ask("POST", sessions + "/" + id + "/action", body);
    }
    server.ask("DELETE", sessions + "/" + id + "?run_id=" + run, "");
    const std::string last = part(answer, "step"), weights = part(answer, "version");
    std::printf("%s steps, %d episodes, weights %s\n", last.c_str(), episodes, weights.c_str());
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
