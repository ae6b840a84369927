// What the operators of the whole network share on the processor and on GPUs: engines by their models, and checks.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <atomic>
#include <iterator>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "symmd/engine.h"

namespace symmd_torch {

using at::Tensor;
using Axes = std::array<bool, 3>;
using Observables = std::tuple<Tensor, Tensor, Tensor, Tensor>;  // energy, atom_energy, forces, virial

// An engine serves one thread at a time; programs may call the operator from several.
struct SharedEngine {
    std::mutex busy;
    std::optional<symmd::Engine> engine;
    std::vector<int32_t> species;
    // On a GPU: the atomic numbers of the last call, how often torch had written to them, and their species there.
    Tensor numbers, species_on_device;
    int64_t numbers_version = -1;
    // A CUDA graph of the caller's may replay its steps: it stays, and so do the species that these read.
    std::atomic<bool> captured{false};
    std::vector<Tensor> species_of_captures;
};

// Engines by the tensor that holds their model. Reading a model takes milliseconds, even hashing one would be felt in
// every step, so what is compared is where the model lies and how often torch has written to it. The weak pointer keeps
// the address of a freed tensor from being given to another one.
class EngineCache {
  public:
    std::shared_ptr<SharedEngine> find(const Tensor& model, const symmd::EngineOptions& options) {
        const std::lock_guard<std::mutex> guard(busy_);
        entries_.remove_if([](const Entry& entry) { return entry.storage.expired() && !entry.engine->captured; });
        Entry wanted{model.storage().getWeakStorageImpl(),
                     model.const_data_ptr(),
                     model.numel(),
                     model._version(),
                     options.precision,
                     options.deterministic,
                     options.device,
                     nullptr};
        for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
            if (!entry->same_model(wanted)) continue;
            entries_.splice(entries_.begin(), entries_, entry);
            return entry->engine;
        }
        wanted.engine = std::make_shared<SharedEngine>();
        entries_.push_front(std::move(wanted));
        if (entries_.size() > most_entries) forget_oldest();
        return entries_.front().engine;
    }

  private:
    static constexpr std::size_t most_entries = 8;

    struct Entry {
        c10::weak_intrusive_ptr<c10::StorageImpl> storage;
        const void* data;
        int64_t size, version;
        symmd::Precision precision;
        bool deterministic;
        std::string device;
        std::shared_ptr<SharedEngine> engine;

        bool same_model(const Entry& other) const {
            return storage == other.storage && data == other.data && size == other.size && version == other.version &&
                   precision == other.precision && deterministic == other.deterministic && device == other.device;
        }
    };

    void forget_oldest() {
        for (auto entry = std::prev(entries_.end()); entry != entries_.begin(); --entry) {
            if (entry->engine->captured) continue;
            entries_.erase(entry);
            return;
        }
    }

    std::mutex busy_;
    std::list<Entry> entries_;  // the last used one first
};

EngineCache& engine_cache();

// `threads`: 0 takes as many as torch uses.
symmd::EngineOptions engine_options(std::string_view precision, int64_t threads);

// Refuses what has the wrong type or size.
void check_input(const Tensor& model, const Tensor& atomic_numbers, const Tensor& positions,
                 const std::optional<Tensor>& cell, const Axes& pbc);

}  // namespace symmd_torch
