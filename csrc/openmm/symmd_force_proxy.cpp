#include "symmd_force_proxy.h"

#include <memory>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include "base64.h"
#include "openmm/OpenMMException.h"
#include "openmm/serialization/SerializationNode.h"
#include "openmm/serialization/SerializationProxy.h"
#include "symmd_force.h"

namespace symmd {

namespace {

using OpenMM::OpenMMException;
using OpenMM::SerializationNode;

// Version 1 had no device.
constexpr int version = 2;

class SymmdForceProxy : public OpenMM::SerializationProxy {
  public:
    SymmdForceProxy() : SerializationProxy("SymmdForce") {}

    void serialize(const void* object, SerializationNode& node) const override {
        const SymmdForce& force = *static_cast<const SymmdForce*>(object);
        node.setIntProperty("version", version);
        node.setIntProperty("forceGroup", force.getForceGroup());
        node.setStringProperty("name", force.getName());
        node.setStringProperty("modelName", force.getModelName());
        node.setStringProperty("precision", force.getPrecision());
        node.setStringProperty("device", force.getDevice());
        node.setIntProperty("threads", force.getThreads());
        node.setBoolProperty("deterministic", force.getDeterministic());
        node.setBoolProperty("usesPeriodic", force.usesPeriodicBoundaryConditions());
        node.setStringProperty("scaleParameter", force.getScaleParameterName());
        node.setBoolProperty("scaleDerivative", force.getNumEnergyParameterDerivatives() > 0);
        SerializationNode& atoms = node.createChildNode("Atoms");
        const std::vector<int>& particles = force.getParticles();
        for (std::size_t k = 0; k < force.getAtomicNumbers().size(); ++k) {
            SerializationNode& atom = atoms.createChildNode("Atom");
            atom.setIntProperty("z", force.getAtomicNumbers()[k]);
            if (!particles.empty()) atom.setIntProperty("p", particles[k]);
        }
        SerializationNode& topology = node.createChildNode("Topology");
        topology.setIntProperty("particles", force.getTopologyParticles());
        for (const OpenMM::Vec3& vector : force.getTopologyBox())
            topology.createChildNode("BoxVector")
                .setDoubleProperty("x", vector[0])
                .setDoubleProperty("y", vector[1])
                .setDoubleProperty("z", vector[2]);
        SerializationNode& bonds = node.createChildNode("Bonds");
        for (const auto& bond : force.getBonds())
            bonds.createChildNode("Bond").setIntProperty("p1", bond.first).setIntProperty("p2", bond.second);
        node.createChildNode("Model").setStringProperty("base64", to_base64(force.getModel()));
    }

    // What is absent is as in a new force, so that `<Force type="SymmdForce" version="2"/>` is one.
    void* deserialize(const SerializationNode& node) const override {
        const int found = node.getIntProperty("version");
        if (found < 1 || found > version)
            throw OpenMMException("SymmdForce: expected version 1 to " + std::to_string(version) +
                                  " of its XML, found " + std::to_string(found) +
                                  "; read it with the SymMD that wrote it");
        auto force = std::make_unique<SymmdForce>();
        force->setForceGroup(node.getIntProperty("forceGroup", force->getForceGroup()));
        force->setName(node.getStringProperty("name", force->getName()));
        force->setPrecision(node.getStringProperty("precision", force->getPrecision()));
        force->setDevice(node.getStringProperty("device", force->getDevice()));
        force->setThreads(node.getIntProperty("threads", force->getThreads()));
        force->setDeterministic(node.getBoolProperty("deterministic", force->getDeterministic()));
        force->setUsesPeriodicBoundaryConditions(
            node.getBoolProperty("usesPeriodic", force->usesPeriodicBoundaryConditions()));
        force->setScaleParameterName(node.getStringProperty("scaleParameter", force->getScaleParameterName()));
        if (node.getBoolProperty("scaleDerivative", false))
            force->addEnergyParameterDerivative(force->getScaleParameterName());
        for (const SerializationNode& child : node.getChildren()) {
            if (child.getName() == "Model") {
                read_model(node, child, *force);
            } else if (child.getName() == "Atoms") {
                std::vector<int> numbers, particles;
                for (const SerializationNode& atom : child.getChildren()) {
                    numbers.push_back(atom.getIntProperty("z"));
                    if (atom.hasProperty("p")) particles.push_back(atom.getIntProperty("p"));
                }
                force->setAtoms(std::move(numbers), std::move(particles));
            } else if (child.getName() == "Topology") {
                std::vector<OpenMM::Vec3> box;
                for (const SerializationNode& vector : child.getChildren())
                    box.emplace_back(vector.getDoubleProperty("x"), vector.getDoubleProperty("y"),
                                     vector.getDoubleProperty("z"));
                force->setTopology(child.getIntProperty("particles"), std::move(box));
            } else if (child.getName() == "Bonds") {
                std::vector<std::pair<int, int>> bonds;
                for (const SerializationNode& bond : child.getChildren())
                    bonds.emplace_back(bond.getIntProperty("p1"), bond.getIntProperty("p2"));
                force->setBonds(std::move(bonds));
            }
        }
        return force.release();
    }

  private:
    static void read_model(const SerializationNode& node, const SerializationNode& child, SymmdForce& force) {
        try {
            force.setModel(from_base64(child.getStringProperty("base64")), node.getStringProperty("modelName", ""));
        } catch (const Error& error) {
            throw OpenMMException(std::string("SymmdForce: the model in the XML is damaged: ") + error.what());
        }
    }
};

}  // namespace

void register_symmd_force_proxy() {
    static SymmdForceProxy proxy;
    OpenMM::SerializationProxy::registerProxy(typeid(SymmdForce), &proxy);
}

}  // namespace symmd
