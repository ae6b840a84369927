// A kernel with PLUMED's binary interface for tests of what calls it: it writes down each command that it gets, in
// PLUMED's units, and adds one bias that a test can compute itself.
//
// Its input is one line of KEY=VALUE: ATOMS=i,j (from 1), AT (nm), KAPPA (kJ/mol/nm²): 0.5 KAPPA (d_ij − AT)²;
// GROW (kJ/mol/nm²): KAPPA grows by it in each update, as a bias of hills does; ENERGY=c: c times the potential energy
// is added; STOP=step: asks the program to stop in that step's update; FAIL=command: that command fails.
// With -DRECORDER_VERSION=2 it has the table of PLUMED 2.5 to 2.7, whose commands do not know types.
// With -DRECORDER_MPI it works on the communicator of the program; without, it refuses one as PLUMED does.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef RECORDER_MPI
#include <mpi.h>
#endif

#ifndef RECORDER_VERSION
#define RECORDER_VERSION 3
#endif

namespace {

struct Receiver {
    void* context;
    void (*receive)(void*, int, const char*, const void*);
};
struct Value {
    const void* pointer;
    std::size_t elements;
    const std::size_t* shape;
    std::size_t flags;
    const void* options;
};

constexpr std::size_t integer = 3, real = 4;

class Recorder {
  public:
    ~Recorder() {
        if (record_) {
            std::fprintf(record_, "finalize\n");
            std::fclose(record_);
        }
#ifdef RECORDER_MPI
        if (world_ != MPI_COMM_SELF) MPI_Comm_free(&world_);
#endif
    }

    void command(const std::string& name, const Value& value) {
        if (name == failing_) throw std::runtime_error("the test wants " + name + " to fail");
        if (name == "setMPIComm") return set_communicator(value);
#ifdef RECORDER_MPI
        if (name == "GREX setMPIIntracomm" || name == "GREX setMPIIntercomm") {
            int ranks = 0;
            MPI_Comm_size(*static_cast<const MPI_Comm*>(value.pointer), &ranks);
            replicas_ += name.substr(11) + " " + std::to_string(ranks) + " ";
            return;
        }
        if (name == "GREX init") return;
#endif
        if (name == "setLogFile") return begin_record(static_cast<const char*>(value.pointer));
        if (name == "setMDEnergyUnits") return number(name, energy_ = get<double>(value, real));
        if (name == "setMDLengthUnits") return number(name, length_ = get<double>(value, real));
        if (name == "setMDTimeUnits") return number(name, time_ = get<double>(value, real));
        if (name == "setTimestep") return number(name, get<double>(value, real) * time_);
        if (name == "setKbT") return number(name, get<double>(value, real) * energy_);
        if (name == "setNatoms") return number(name, natoms_ = get<int>(value, integer));
        if (name == "setRestart") return number(name, get<int>(value, integer));
        if (name == "setMDEngine") return line(name + " " + static_cast<const char*>(value.pointer));
        if (name == "setPlumedDat") return void(input_ = static_cast<const char*>(value.pointer));
        if (name == "init") return read_input();
        if (name == "getApiVersion") return set<int>(value, 9);
        if (name == "setStepLong") return number(name, step_ = get<long>(value, integer));
        if (name == "setStopFlag") return void(stop_ = writable<int>(value, integer));
        if (name == "setAtomsNlocal") return void(local_ = get<int>(value, integer));
        if (name == "setAtomsGatindex") return void(indices_ = array<int>(value, integer));
        if (name == "setBox") return void(box_ = array<double>(value, real));
        if (name == "setPositions") return void(positions_ = array<double>(value, real));
        if (name == "setMasses") return void(masses_ = array<double>(value, real));
        if (name == "setCharges") return void(charges_ = array<double>(value, real));
        if (name == "setVirial") return void(virial_ = writable<double>(value, real));
        if (name == "setForces") return void(forces_ = writable<double>(value, real));
        if (name == "setEnergy") return void(potential_ = get<double>(value, real));
        if (name == "prepareCalc") return line(name);
        if (name == "isEnergyNeeded") return set<int>(value, number_of("ENERGY", 0) != 0);
        if (name == "performCalcNoUpdate") return calculate();
        if (name == "update") return update();
        if (name == "getBias") return set<double>(value, bias_ / energy_);
        throw std::runtime_error("command " + name + " is not known");
    }

  private:
    template <typename T>
    static const T* array(const Value& value, std::size_t kind) {
        if (value.flags == 0 && RECORDER_VERSION < 3) return static_cast<const T*>(value.pointer);
        if (value.flags % 0x10000 != sizeof(T) || value.flags / 0x10000 % 0x100 != kind)
            throw std::runtime_error("a value of another type was expected");
        return static_cast<const T*>(value.pointer);
    }
    template <typename T>
    static T get(const Value& value, std::size_t kind) {
        return *array<T>(value, kind);
    }
    template <typename T>
    static T* writable(const Value& value, std::size_t kind) {
        if (RECORDER_VERSION >= 3 && value.flags / 0x2000000 % 8 != 2)
            throw std::runtime_error("a value to write to was expected");
        return const_cast<T*>(array<T>(value, kind));
    }
    template <typename T>
    static void set(const Value& value, T result) {
        *writable<T>(value, sizeof(T) == sizeof(int) ? integer : real) = result;
    }

    void set_communicator([[maybe_unused]] const Value& value) {
#ifdef RECORDER_MPI
        MPI_Comm_dup(*static_cast<const MPI_Comm*>(value.pointer), &world_);
        MPI_Comm_rank(world_, &rank_);
#else
        throw std::runtime_error("you are trying to use an MPI function, but it has been compiled without");
#endif
    }

    void begin_record(std::string name) {
        if (rank_ > 0) name += "." + std::to_string(rank_);
        record_ = std::fopen(name.c_str(), "a");
    }
    void line(const std::string& text) {
        if (!record_) begin_record("plumed.record");
        std::fprintf(record_, "%s\n", text.c_str());
        std::fflush(record_);
    }
    void number(const std::string& name, double value) {
        char text[64];
        std::snprintf(text, sizeof text, " %.17g", value);
        line(name + text);
    }

    double number_of(const std::string& key, double otherwise) const {
        const auto found = keys_.find(key);
        return found == keys_.end() ? otherwise : std::stod(found->second);
    }

    void read_input() {
        std::ifstream file(input_);
        if (!file) throw std::runtime_error("cannot open the input " + input_);
        std::string word;
        while (file >> word) keys_[word.substr(0, word.find('='))] = word.substr(word.find('=') + 1);
        if (!keys_.count("ATOMS")) throw std::runtime_error("ATOMS are missing in " + input_);
        std::sscanf(keys_["ATOMS"].c_str(), "%d,%d", &pair_[0], &pair_[1]);
        for (int& atom : pair_)
            if (--atom < 0 || atom >= natoms_) throw std::runtime_error("there is no such atom");
        kappa_ = number_of("KAPPA", 0);
        if (keys_.count("FAIL")) failing_ = keys_["FAIL"];
        line("init " + std::to_string(rank_) + " " + replicas_);
    }

    // Position (nm), mass and charge of both atoms on every rank.
    std::vector<double> pair() const {
        std::vector<double> found(10, 0.0);
        for (int k = 0; k < local_count(); ++k)
            for (int a = 0; a < 2; ++a)
                if (index(k) == pair_[a]) {
                    for (int b = 0; b < 3; ++b) found[5 * a + b] = positions_[3 * k + b] * length_;
                    found[5 * a + 3] = masses_ ? masses_[k] : 0;
                    found[5 * a + 4] = charges_ ? charges_[k] : 0;
                }
        return sum(found);
    }

    std::vector<double> sum(std::vector<double> numbers) const {
#ifdef RECORDER_MPI
        MPI_Allreduce(MPI_IN_PLACE, numbers.data(), int(numbers.size()), MPI_DOUBLE, MPI_SUM, world_);
#endif
        return numbers;
    }

    int local_count() const { return local_ < 0 ? natoms_ : local_; }
    int index(int k) const { return indices_ ? indices_[k] : k; }

    void calculate() {
        const std::vector<double> atoms = pair();
        double shift[3];
        for (int b = 0; b < 3; ++b) shift[b] = atoms[5 + b] - atoms[b];
        const bool periodic = box_ && box_[0] != 0;
        for (int row = 2; periodic && row >= 0; --row) {  // vectors of the box, as a lower triangle
            const double images = std::round(shift[row] / (box_[4 * row] * length_));
            for (int b = 0; b <= row; ++b) shift[b] -= images * box_[3 * row + b] * length_;
        }
        const double distance = std::sqrt(shift[0] * shift[0] + shift[1] * shift[1] + shift[2] * shift[2]);
        const double excess = distance - number_of("AT", 0), scale = number_of("ENERGY", 0);
        const double whole_energy = sum({potential_ * energy_})[0];
        bias_ = 0.5 * kappa_ * excess * excess + scale * whole_energy;
        const double force = kappa_ * excess / distance;  // on the first atom, along the shift

        const double unit = length_ / energy_;
        for (int k = 0; k < local_count(); ++k)
            for (int b = 0; b < 3; ++b) {
                double& found = forces_[3 * k + b];
                if (scale != 0) found *= 1 + scale;
                if (index(k) == pair_[0]) found += force * shift[b] * unit;
                if (index(k) == pair_[1]) found -= force * shift[b] * unit;
            }
        for (int a = 0; a < 9 && virial_; ++a) {
            virial_[a] *= 1 + scale;
            if (rank_ == 0) virial_[a] += force * shift[a / 3] * shift[a % 3] / energy_;
        }
        char text[200];
        std::snprintf(text, sizeof text, "calculate step %ld distance %.15g bias %.15g masses %g %g charges %g %g",
                      step_, distance, bias_, atoms[3], atoms[8], atoms[4], atoms[9]);
        line(text);
        if (periodic) {
            std::snprintf(text, sizeof text, "box %.12g %.12g %.12g %.12g", box_[0] * length_, box_[4] * length_,
                          box_[8] * length_, box_[3] * length_);
            line(text);
        }
    }

    void update() {
        kappa_ += number_of("GROW", 0);
        if (step_ == long(number_of("STOP", -1))) *stop_ = 1;
        line("update step " + std::to_string(step_));
    }

    double energy_ = 1, length_ = 1, time_ = 1, kappa_ = 0, bias_ = 0, potential_ = 0;
    int natoms_ = 0, local_ = -1, rank_ = 0, pair_[2] = {0, 0};
    long step_ = 0;
    int* stop_ = nullptr;
    const int* indices_ = nullptr;
    const double *box_ = nullptr, *positions_ = nullptr, *masses_ = nullptr, *charges_ = nullptr;
    double *virial_ = nullptr, *forces_ = nullptr;
    std::string input_, failing_, replicas_;
    std::map<std::string, std::string> keys_;
    std::FILE* record_ = nullptr;
#ifdef RECORDER_MPI
    MPI_Comm world_ = MPI_COMM_SELF;
#endif
};

void* create() { return new Recorder; }
void finalize(void* recorder) { delete static_cast<Recorder*>(recorder); }

void command_caught(void* recorder, const char* name, Value value, Receiver receiver) {
    try {
        static_cast<Recorder*>(recorder)->command(name, value);
    } catch (const std::exception& error) {
        // The form of PLUMED's messages.
        const std::string message =
            "\n+++ PLUMED error\n+++ at recorder.cpp:1, function void f()\n+++ message follows +++\n" +
            std::string(error.what()) + "\n";
        receiver.receive(receiver.context, 20000, message.c_str(), nullptr);
    }
}
void command_typed(void* recorder, const char* name, Value value) {
    static_cast<Recorder*>(recorder)->command(name, value);
}
void command(void* recorder, const char* name, const void* pointer) {
    command_typed(recorder, name, Value{pointer, 0, nullptr, 0, nullptr});
}
void command_untyped_caught(void* recorder, const char* name, const void* pointer, Receiver receiver) {
    command_caught(recorder, name, Value{pointer, 0, nullptr, 0, nullptr}, receiver);
}

}  // namespace

struct Table {
    int version;
    void* (*create)();
    void (*command)(void*, const char*, const void*);
    void (*finalize)(void*);
    void (*command_caught)(void*, const char*, const void*, Receiver);
    void (*command_typed)(void*, const char*, Value);
    void (*command_typed_caught)(void*, const char*, Value, Receiver);
};

extern "C" __attribute__((visibility("default"))) Table plumed_symbol_table;
Table plumed_symbol_table = {RECORDER_VERSION,       create,        command,       finalize,
                             command_untyped_caught, command_typed, command_caught};
