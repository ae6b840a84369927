#include "plumed_run.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "openmm/OpenMMException.h"
#include "symmd/error.h"

namespace symmd {

using OpenMM::OpenMMException;
using OpenMM::Vec3;
using plumed::OncePerStep;

namespace {

[[noreturn]] void refuse(const std::string& reason) { throw OpenMMException("PlumedForce: " + reason); }

// [3 · particles]
const double* numbers_of(const std::vector<Vec3>& positions) {
    static_assert(sizeof(Vec3) == 3 * sizeof(double), "vectors are passed on as numbers");
    return reinterpret_cast<const double*>(positions.data());
}

// All calculations of the process.
struct Runs {
    std::mutex mutex;
    std::vector<PlumedRun*> all;
};
Runs& runs() {
    static Runs* known = new Runs;  // outlives static objects that hold forces
    return *known;
}

// The script as a file: PLUMED joins lines and follows INCLUDE by itself when it reads one.
class ScriptFile {
  public:
    explicit ScriptFile(const std::string& script) {
        std::error_code failed;
        auto folder = std::filesystem::temp_directory_path(failed);
        path_ = ((failed ? "." : folder) / "symmd-plumed-XXXXXX").string();
        const int file = mkstemp(path_.data());
        const std::string text = script + "\n";
        bool written = file >= 0 && write(file, text.data(), text.size()) == ssize_t(text.size());
        if (file >= 0) written = ::close(file) == 0 && written;
        if (!written) {
            std::filesystem::remove(path_, failed);
            refuse("the script needs a file that cannot be written, " + path_ + "; set TMPDIR to a folder with space");
        }
    }
    ~ScriptFile() {
        std::error_code ignored;
        std::filesystem::remove(path_, ignored);
    }
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

}  // namespace

PlumedRun::PlumedRun() {
    const std::lock_guard<std::mutex> lock(runs().mutex);
    runs().all.push_back(this);
}

PlumedRun::~PlumedRun() {
    {
        const std::lock_guard<std::mutex> lock(runs().mutex);
        auto& all = runs().all;
        all.erase(std::remove(all.begin(), all.end(), this), all.end());
    }
    close();
}

void PlumedRun::begin(const PlumedStart& start) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (begun_ && !session_) refuse("it was closed; make another PlumedForce for another run");
    if (!begun_) {
        try {
            open(start);
        } catch (const Error& error) {
            session_.reset();
            refuse(error.what());
        }
        begun_ = true;
    } else if (start.masses.size() != masses_.size()) {
        refuse("its calculation began with " + std::to_string(masses_.size()) + " particles, found " +
               std::to_string(start.masses.size()) + "; make another PlumedForce for another System");
    }
    // A Context that is made again may have other masses or charges.
    masses_ = start.masses;
    charges_ = start.charges;
    once_.forget_evaluation();
}

void PlumedRun::open(const PlumedStart& start) {
    session_ = std::make_unique<plumed::Session>(plumed::Kernel::load(plumed::find_kernel(start.kernel)));
    const int particles = int(start.masses.size()), restart = 1;
    session_->command("setMDEngine", std::string("OpenMM"));
    session_->command("setLogFile", start.log_file);
    session_->command("setNatoms", &particles);
    session_->command("setTimestep", &start.time_step);
    const double kt = plumed::gas_constant * start.temperature;
    if (kt > 0) session_->command("setKbT", &kt);
    if (start.restart) session_->command("setRestart", &restart);
    const ScriptFile script(start.script);
    session_->command("setPlumedDat", script.path());
    session_->command("init");
}

double PlumedRun::evaluate(int64_t step, const OncePerStep::Box& box, const std::vector<Vec3>& positions,
                           std::vector<Vec3>& forces) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!session_) refuse("it was closed; make another PlumedForce for another run");
    settle_locked();
    if (!once_.same(step, box, numbers_of(positions), 3 * positions.size())) {
        once_.forget_evaluation();
        try {
            calculate(step, box, positions);
        } catch (const Error& error) {
            refuse(error.what());
        }
        once_.evaluated(step, box, numbers_of(positions), 3 * positions.size());
    }
    for (std::size_t k = 0; k < positions.size(); ++k)
        forces[k] = Vec3(forces_[3 * k], forces_[3 * k + 1], forces_[3 * k + 2]);
    return bias_;
}

void PlumedRun::calculate(int64_t step, const OncePerStep::Box& box, const std::vector<Vec3>& positions) {
    positions_.assign(numbers_of(positions), numbers_of(positions) + 3 * positions.size());
    if (!std::all_of(positions_.begin(), positions_.end(), [](double x) { return std::isfinite(x); }))
        refuse("expected finite positions, found others; the simulation has most likely blown up");
    forces_.assign(positions_.size(), 0.0);
    box_ = box;
    std::fill_n(virial_, 9, 0.0);
    const long count = step;
    int needs_energy = 0;
    session_->command("setStepLong", &count);
    session_->command("setStopFlag", &stop_);
    session_->command("setBox", box_.data());
    session_->command("setPositions", positions_.data());
    session_->command("setMasses", masses_.data());
    if (!charges_.empty()) session_->command("setCharges", charges_.data());
    session_->command("setForces", forces_.data());
    session_->command("setVirial", virial_);
    session_->command("prepareCalc");
    session_->command("isEnergyNeeded", &needs_energy);
    if (needs_energy)
        refuse(
            "the script asks for the potential energy (ENERGY), which a force of OpenMM does not know; run it in "
            "LAMMPS with fix symmd/plumed");
    session_->command("performCalcNoUpdate");
    bias_ = session_->bias();
}

void PlumedRun::step_of_dynamics(const void* user, int64_t step) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (user_ && user_ != user)
        refuse(
            "two Contexts step with one PlumedForce, whose bias grows with each of them; give each a System of its own "
            "with copy.deepcopy(system)");
    user_ = user;
    due_ = true;
    due_step_ = step;
}

void PlumedRun::settle() {
    const std::lock_guard<std::mutex> lock(mutex_);
    settle_locked();
}

void PlumedRun::settle_locked() {
    if (!due_) return;
    due_ = false;
    if (!session_ || !once_.claim_update(due_step_)) return;
    try {
        session_->command("update");
    } catch (const Error& error) {
        refuse(error.what());
    }
    if (stop_) {
        stop_ = 0;
        refuse("the script asks for the end of the run in step " + std::to_string(due_step_) +
               " (as COMMITTOR does); what it has written is complete");
    }
}

void PlumedRun::leave(const void* user) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (user_ != user) return;
    try {
        settle_locked();
    } catch (const std::exception&) {
        // A destructor calls this; the last update has nowhere to report to.
    }
    user_ = nullptr;
}

void PlumedRun::close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    try {
        settle_locked();
    } catch (const std::exception&) {
        // As in leave.
    }
    session_.reset();
    begun_ = true;
}

void PlumedRun::close_all() {
    const std::lock_guard<std::mutex> lock(runs().mutex);
    for (PlumedRun* run : runs().all) run->close();
}

}  // namespace symmd
